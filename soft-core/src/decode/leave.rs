//! At an early exit: who leaves, and with which token.

use std::time::Instant;

use super::decoder::{Decoder, Kind};
use super::packed::Packed;
use super::round::Turn;
use super::row::{Doubted, Drafted};
use super::{DecodeError, DecodeModel, Evidence, Head, Measure, Score, SettingsError, Verdict};
use crate::Distribution;

/// The newest token of a row at an exit.
struct Candidate {
    row: usize,
    /// Index of its state.
    state: usize,
    evidence: Evidence,
    reading: Option<Reading>,
    verdict: Verdict,
    /// What its token is drawn from, when that is not simply the best one.
    from: Option<Distribution>,
}

/// What a head said of one state.
pub(super) struct Reading {
    pub token: u32,
    pub score: Option<Score>,
    pub logits: Option<Vec<f32>>,
}

impl<M: DecodeModel> Decoder<'_, M> {
    /// Which rows leave at the exit of this index; their tokens are committed or drafted.
    pub(super) fn leaving(
        &mut self,
        index: usize,
        before: &M::Hidden,
        states: &Packed<M::Hidden>,
        turn: &Turn,
    ) -> Result<Vec<bool>, DecodeError<M::Error>> {
        let mut leaving = vec![false; self.rows.len()];
        let asked = |&(row, _): &(usize, usize)| turn.feeds[row] && !turn.through[row];
        let newest = states.last_of_rows();
        let mut candidates: Vec<Candidate> = newest
            .into_iter()
            .filter(asked)
            .map(|(row, state)| Candidate {
                row,
                state,
                evidence: Evidence::default(),
                reading: None,
                verdict: Verdict::Stay,
                from: None,
            })
            .collect();
        if candidates.is_empty() || !self.asking_pays(index) {
            return Ok(leaving);
        }
        let begun = Instant::now();
        self.judge(index, before, &states.hidden, &mut candidates)?;
        let asked = candidates.len() as f64;
        candidates.retain(|candidate| candidate.verdict == Verdict::Leave);
        self.read_missing(index, &states.hidden, &mut candidates)?;
        if let Kind::Dynamic {
            worth: Some(worth), ..
        } = &mut self.kind
        {
            worth[index].asked(begun.elapsed(), candidates.len() as f64 / asked);
        }
        for candidate in &mut candidates {
            if let Some(reading) = &candidate.reading {
                let row = candidate.row;
                candidate.from = self.distribution(row, self.rows[row].tokens.len(), reading)?;
            }
        }
        // Reading the deep blocks costs the same for one row as for all: rows check together.
        if candidates
            .iter()
            .any(|candidate| self.is_doubtful(index, candidate))
        {
            candidates
                .into_iter()
                .for_each(|candidate| self.doubt(candidate));
            return Ok(leaving);
        }
        for candidate in candidates {
            leaving[candidate.row] = true;
            self.leave(index, candidate);
        }
        Ok(leaving)
    }

    /// Whether this token would make its row's draft too doubtful.
    ///
    /// Must not depend on the token that is drawn: a draft kept for being probable would no longer be distributed
    /// as the check supposes.
    fn is_doubtful(&self, index: usize, candidate: &Candidate) -> bool {
        let probability = self.draft_probability(index, candidate);
        match &self.kind {
            Kind::Auto { tuner, .. } => !tuner.pays(index, probability),
            Kind::Speculative { .. } => self.rows[candidate.row].length.is_doubtful(probability),
            Kind::Static | Kind::Dynamic { .. } => false,
        }
    }

    /// How likely the draft of the candidate's row is with its token added.
    fn draft_probability(&self, index: usize, candidate: &Candidate) -> f64 {
        let confidence = self.confidence(candidate);
        let chance = match &self.kind {
            Kind::Auto { tuner, .. } => tuner.chance(index, confidence),
            _ => confidence,
        };
        self.rows[candidate.row].draft_probability * chance
    }

    /// Keeps what would have been drafted, to learn from what the full model says instead.
    fn doubt(&mut self, candidate: Candidate) {
        let confidence = self.confidence(&candidate);
        let Candidate {
            row, from, reading, ..
        } = candidate;
        self.rows[row].doubted = reading.map(|reading| Doubted {
            token: reading.token,
            from,
            confidence,
        });
    }

    /// The highest probability at the exit.
    fn confidence(&self, candidate: &Candidate) -> f64 {
        let score = candidate.reading.as_ref().and_then(|reading| reading.score);
        match (&candidate.from, score) {
            // Greedy drafts behind a penalty come from one token only: the head's own opinion counts.
            (Some(from), _) if !self.sampling.is_greedy() => from.probability(from.best()),
            (_, Some(score)) => f64::from(score.probability),
            _ => 1.0,
        }
    }

    fn asking_pays(&mut self, index: usize) -> bool {
        match &mut self.kind {
            Kind::Dynamic {
                worth: Some(worth), ..
            } => worth[index].asking_pays(),
            _ => true,
        }
    }

    /// Asks every candidate's policy until it knows; what several ask for is computed at once.
    fn judge(
        &mut self,
        index: usize,
        before: &M::Hidden,
        after: &M::Hidden,
        candidates: &mut [Candidate],
    ) -> Result<(), DecodeError<M::Error>> {
        if let Kind::Auto { cycle, .. } = &self.kind {
            let here = cycle.drafts_at(index);
            for candidate in candidates {
                candidate.verdict = if here { Verdict::Leave } else { Verdict::Stay };
            }
            return Ok(());
        }
        let exit = self.exits[index];
        for candidate in candidates.iter_mut() {
            let policy = &mut self.rows[candidate.row].policy;
            candidate.verdict = policy.judge(exit, &candidate.evidence);
        }
        // Two measures, each asked for at most once.
        for _ in 0..2 {
            for measure in [Measure::Similarity, Measure::Score] {
                let asking = |c: &&mut Candidate| c.verdict == Verdict::Ask(measure);
                let mut asking: Vec<_> = candidates.iter_mut().filter(asking).collect();
                if asking.is_empty() {
                    continue;
                }
                let states: Vec<usize> = asking.iter().map(|c| c.state).collect();
                match measure {
                    Measure::Similarity => {
                        let cosines = self.cosines(before, after, &states)?;
                        for (candidate, cosine) in asking.iter_mut().zip(cosines) {
                            candidate.evidence.similarity = Some(cosine);
                        }
                    }
                    Measure::Score => {
                        let readings = self.read(after, &states, Some(index), true)?;
                        for (candidate, reading) in asking.iter_mut().zip(readings) {
                            candidate.evidence.score = reading.score;
                            candidate.reading = Some(reading);
                        }
                    }
                }
                for candidate in asking {
                    let policy = &mut self.rows[candidate.row].policy;
                    candidate.verdict = policy.judge(exit, &candidate.evidence);
                }
            }
        }
        Ok(())
    }

    fn cosines(
        &self,
        before: &M::Hidden,
        after: &M::Hidden,
        states: &[usize],
    ) -> Result<Vec<f32>, DecodeError<M::Error>> {
        let select = |hidden| self.model.select(hidden, states);
        select(before)
            .and_then(|before| self.model.similarities(&before, &select(after)?))
            .map_err(DecodeError::Model)
    }

    /// Reads the heads of those that leave without their policy having looked.
    fn read_missing(
        &mut self,
        index: usize,
        hidden: &M::Hidden,
        candidates: &mut [Candidate],
    ) -> Result<(), DecodeError<M::Error>> {
        let mut unread: Vec<_> = candidates
            .iter_mut()
            .filter(|candidate| candidate.reading.is_none())
            .collect();
        if unread.is_empty() {
            return Ok(());
        }
        let scored = matches!(
            self.kind,
            Kind::Auto { .. }
                | Kind::Speculative {
                    needs_probability: true
                }
        );
        let states: Vec<usize> = unread.iter().map(|candidate| candidate.state).collect();
        let readings = self.read(hidden, &states, Some(index), scored)?;
        for (candidate, reading) in unread.iter_mut().zip(readings) {
            candidate.reading = Some(reading);
        }
        Ok(())
    }

    /// Reads these states with the head of an early exit, or of the full model when there is no index.
    pub(super) fn read(
        &mut self,
        hidden: &M::Hidden,
        states: &[usize],
        early: Option<usize>,
        scored: bool,
    ) -> Result<Vec<Reading>, DecodeError<M::Error>> {
        let exit = self.exits[early.unwrap_or(self.exits.len() - 1)];
        let head = match early.and_then(|index| self.draft_heads.get(index)) {
            Some(head) => Head::Draft(head),
            None => Head::Full(exit),
        };
        match head {
            Head::Draft(_) => self.statistics.draft_head_states += states.len() as u64,
            Head::Full(_) => {
                self.statistics.head_states += states.len() as u64;
                self.statistics.head_passes += 1;
            }
        }
        let model = self.model;
        let chosen = model.select(hidden, states).map_err(DecodeError::Model)?;
        let readings = if !self.sampling.needs_only_the_best() {
            let rows = model
                .logit_rows(&chosen, head)
                .map_err(DecodeError::Model)?;
            let reading = |logits: Vec<f32>| {
                let score = Score::of_logits(&logits);
                Reading {
                    token: score.token,
                    score: Some(score),
                    logits: Some(logits),
                }
            };
            rows.into_iter().map(reading).collect()
        } else if scored {
            let scores = model.scores(&chosen, head).map_err(DecodeError::Model)?;
            let reading = |score: Score| Reading {
                token: score.token,
                score: Some(score),
                logits: None,
            };
            scores.into_iter().map(reading).collect()
        } else {
            let tokens = model
                .best_tokens(&chosen, head)
                .map_err(DecodeError::Model)?;
            let reading = |token| Reading {
                token,
                score: None,
                logits: None,
            };
            tokens.into_iter().map(reading).collect()
        };
        Ok(readings)
    }

    /// What the sampler draws from after the tokens of `row` before `position`; none when the best token is all that counts.
    pub(super) fn distribution(
        &self,
        row: usize,
        position: usize,
        reading: &Reading,
    ) -> Result<Option<Distribution>, DecodeError<M::Error>> {
        let Some(logits) = &reading.logits else {
            return Ok(None);
        };
        let seen = &self.rows[row].tokens[..position];
        let distribution = self.sampling.distribution(logits, seen);
        Ok(Some(distribution.map_err(SettingsError::from)?))
    }

    /// Commits the token of a row that leaves, or drafts it.
    fn leave(&mut self, index: usize, candidate: Candidate) {
        let confidence = self.confidence(&candidate);
        let draft_probability = self.draft_probability(index, &candidate);
        let Candidate {
            row, from, reading, ..
        } = candidate;
        let exit = self.exits[index];
        let token = match (&from, &reading) {
            (Some(distribution), _) => distribution.sample(&mut self.rows[row].rng),
            (None, Some(reading)) => reading.token,
            (None, None) => return,
        };
        if !self.checks_later() {
            self.commit(row, token, exit, false);
            return;
        }
        let state = &mut self.rows[row];
        state.tokens.push(token);
        state.drafts.push(Drafted {
            exit,
            from,
            confidence,
        });
        state.draft_probability = draft_probability;
        self.statistics.drafted += 1;
    }
}
