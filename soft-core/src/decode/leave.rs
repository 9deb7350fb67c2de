//! At an early exit: who leaves, and with which token.

use std::time::Instant;

use super::decoder::Kind;
use super::packed::Packed;
use super::round::Turn;
use super::row::{Doubted, Drafted};
use crate::decode::decoder::Decoder;
use crate::decode::settings::{DecodeError, SettingsError};
use crate::model::decode_model::{DecodeModel, Head, Score};
use crate::policy::exit_policy::{ExitDecision, ExitSignals, Signal};
use crate::sampling::distribution::Distribution;
use crate::sampling::sampler::Sampling;

/// The newest token of a row at an exit.
struct Candidate {
    row: usize,
    /// Index of its state.
    state: usize,
    evidence: ExitSignals,
    reading: Option<Reading>,
    verdict: ExitDecision,
    /// What its token is drawn from, when that is not simply the best one.
    from: Option<Distribution>,
    /// How sure the exit is of its best token.
    confidence: f64,
    /// How likely the row's draft is right with its token added.
    draft: f64,
}

/// What a head said of one state.
pub(super) struct Reading {
    pub token: u32,
    pub score: Option<Score>,
    pub logits: Option<Vec<f32>>,
}

impl Reading {
    /// Probability of the best token: of those drawn from when sampling, in the head's own opinion when greedy.
    fn confidence(&self, from: Option<&Distribution>, sampling: &Sampling) -> f64 {
        match (from, &self.logits, self.score) {
            (Some(from), _, _) if !sampling.is_greedy() => from.probability(from.best()),
            // The penalty may have passed over the head's own best token.
            (Some(from), Some(logits), Some(score)) => {
                let behind = logits[score.token as usize] - logits[from.best() as usize];
                f64::from(score.probability) * f64::from(-behind).exp()
            }
            (_, _, Some(score)) => f64::from(score.probability),
            _ => 1.0,
        }
    }
}

impl<M: DecodeModel> Decoder<'_, M> {
    /// Which rows leave at the exit of this index; their tokens are committed or drafted.
    pub(super) fn leaving(
        &mut self,
        index: usize,
        before: &M::Hidden,
        states: &Packed<M::Hidden>,
        turn: &mut Turn,
    ) -> Result<Vec<bool>, DecodeError<M::Error>> {
        let mut leaving = vec![false; self.rows.len()];
        let may_leave = |&(row, _): &(usize, usize)| turn.feeds[row] && !turn.through[row];
        let newest = states.last_of_rows();
        let mut candidates: Vec<Candidate> = newest
            .into_iter()
            .filter(may_leave)
            .map(|(row, state)| Candidate {
                row,
                state,
                evidence: ExitSignals::default(),
                reading: None,
                verdict: ExitDecision::Continue,
                from: None,
                confidence: 1.0,
                draft: 1.0,
            })
            .collect();
        if candidates.is_empty() {
            return Ok(leaving);
        }
        let begun = Instant::now();
        self.judge(index, before, &states.hidden, &mut candidates)?;
        candidates.retain(|candidate| candidate.verdict == ExitDecision::Exit);
        self.read_missing(index, &states.hidden, &mut candidates)?;
        for candidate in &mut candidates {
            self.weigh(index, candidate)?;
        }
        if self.too_doubtful(index, &candidates) {
            // Reading the deep blocks costs the same for one row as for all: rows check together.
            for (through, feeds) in turn.through.iter_mut().zip(&turn.feeds) {
                *through |= feeds;
            }
            turn.asking = begun.elapsed();
            self.doubt(candidates);
            return Ok(leaving);
        }
        for candidate in candidates {
            leaving[candidate.row] = true;
            self.leave(index, candidate);
        }
        Ok(leaving)
    }

    /// How sure the exit is, and how likely the whole draft then is.
    fn weigh(&self, index: usize, candidate: &mut Candidate) -> Result<(), DecodeError<M::Error>> {
        let row = &self.rows[candidate.row];
        let Some(reading) = &candidate.reading else {
            return Ok(());
        };
        candidate.from = self.distribution(candidate.row, row.tokens.len(), reading)?;
        if self.checks_later() {
            candidate.confidence = reading.confidence(candidate.from.as_ref(), &self.sampling);
            let chance = match &self.kind {
                Kind::Auto { tuner, .. } => tuner.chance(index, candidate.confidence),
                _ => candidate.confidence,
            };
            candidate.draft = row.draft_probability * chance;
        }
        Ok(())
    }

    /// Whether to check now instead of drafting these tokens.
    ///
    /// Must not depend on the tokens that are drawn: a draft kept for being probable would no longer be distributed
    /// as the check supposes.
    fn too_doubtful(&self, index: usize, candidates: &[Candidate]) -> bool {
        match &self.kind {
            Kind::Auto { tuner, .. } if !candidates.is_empty() => {
                let sum: f64 = candidates.iter().map(|candidate| candidate.draft).sum();
                !tuner.pays(index, sum / candidates.len() as f64)
            }
            Kind::Speculative { .. } => candidates.iter().any(|candidate| {
                let length = &self.rows[candidate.row].length;
                length.is_doubtful(candidate.draft)
            }),
            _ => false,
        }
    }

    /// Automatic mode keeps what would have been drafted, to learn from what the full model says instead.
    fn doubt(&mut self, candidates: Vec<Candidate>) {
        if !matches!(self.kind, Kind::Auto { .. }) {
            return;
        }
        for candidate in candidates {
            let Candidate {
                row,
                from,
                reading,
                confidence,
                ..
            } = candidate;
            self.rows[row].doubted = reading.map(|reading| Doubted {
                token: reading.token,
                from,
                confidence,
            });
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
                candidate.verdict = if here {
                    ExitDecision::Exit
                } else {
                    ExitDecision::Continue
                };
            }
            return Ok(());
        }
        let exit = self.exits[index];
        for candidate in candidates.iter_mut() {
            let policy = &mut self.rows[candidate.row].policy;
            candidate.verdict = policy.decide(exit, &candidate.evidence);
        }
        // Two measures, each asked for at most once.
        for _ in 0..2 {
            for measure in [Signal::Similarity, Signal::Score] {
                let asking = |c: &&mut Candidate| c.verdict == ExitDecision::Ask(measure);
                let mut asking: Vec<_> = candidates.iter_mut().filter(asking).collect();
                if asking.is_empty() {
                    continue;
                }
                let states: Vec<usize> = asking.iter().map(|c| c.state).collect();
                match measure {
                    Signal::Similarity => {
                        let cosines = self.cosines(before, after, &states)?;
                        for (candidate, cosine) in asking.iter_mut().zip(cosines) {
                            candidate.evidence.similarity = Some(cosine);
                        }
                    }
                    Signal::Score => {
                        let readings = self.read(after, &states, Some(index), true)?;
                        for (candidate, reading) in asking.iter_mut().zip(readings) {
                            candidate.evidence.score = reading.score;
                            candidate.reading = Some(reading);
                        }
                    }
                }
                for candidate in asking {
                    let policy = &mut self.rows[candidate.row].policy;
                    candidate.verdict = policy.decide(exit, &candidate.evidence);
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
            .and_then(|before| self.model.cosine_similarities(&before, &select(after)?))
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
        let Candidate {
            row,
            from,
            reading,
            confidence,
            draft,
            ..
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
        state.draft_probability = draft;
        self.statistics.drafted += 1;
    }
}
