//! Early exits: which tokens exit, and whether they are committed or drafted.

use std::time::Instant;

use super::engine::Engine;
use super::head::{HeadOutput, HeadRequest};
use super::packed::Packed;
use super::round::Turn;
use super::row::Drafted;
use super::step::Step;
use super::strategy::{Proposal, Strategy};
use crate::decode::settings::DecodeError;
use crate::exit::Exit;
use crate::model::Stop;
use crate::model::decode_model::DecodeModel;
use crate::policy::error::PolicyError;
use crate::policy::exit_policy::{ExitDecision, ExitSignals, Signal};
use crate::policy::probe::cosine_similarity;
use crate::sampling::distribution::Distribution;

struct Candidate {
    row: usize,
    state: usize,
    signals: ExitSignals,
    output: Option<HeadOutput>,
    decision: ExitDecision,
}

struct Exiting {
    row: usize,
    best: u32,
    /// The sampling distribution; `None` for greedy decoding without a penalty.
    from: Option<Distribution>,
    confidence: f64,
    /// Probability that the row's draft is accepted, including this token.
    draft: f64,
}

impl Candidate {
    fn new((row, state): (usize, usize)) -> Self {
        Self {
            row,
            state,
            signals: ExitSignals::default(),
            output: None,
            decision: ExitDecision::Continue,
        }
    }
}

impl<M: DecodeModel> Engine<'_, M> {
    /// Decides which rows exit at the exit of this index, given the states there and at the
    /// previous stop. Their tokens are committed or drafted.
    pub(super) fn exit_early(
        &mut self,
        index: usize,
        (before, states): (&M::Hidden, &Packed<M::Hidden>),
        turn: &mut Turn,
        strategy: &mut dyn Strategy,
    ) -> Result<Vec<bool>, DecodeError<M::Error>> {
        let mut exited = vec![false; self.rows.len()];
        let may_exit = |&(row, _): &(usize, usize)| turn.feeds[row] && !turn.through[row];
        let newest = states.last_of_rows().into_iter().filter(may_exit);
        let mut candidates: Vec<Candidate> = newest.map(Candidate::new).collect();
        if candidates.is_empty() {
            return Ok(exited);
        }
        let begun = Instant::now();
        self.decide(index, (before, states), &mut candidates, strategy)?;
        candidates.retain(|candidate| candidate.decision == ExitDecision::Exit);
        let exiting = self.exiting(index, states, candidates, strategy)?;
        let proposals: Vec<Proposal> = exiting.iter().map(Exiting::proposal).collect();
        if strategy.verifies_now(index, &proposals) {
            // The deep blocks cost the same for one row as for all, so rows are verified together.
            for (through, feeds) in turn.through.iter_mut().zip(&turn.feeds) {
                *through |= feeds;
            }
            turn.asking = begun.elapsed();
            return Ok(exited);
        }
        let drafts = strategy.verifies();
        for token in exiting {
            exited[token.row] = true;
            self.take_token(index, token, drafts);
        }
        Ok(exited)
    }

    /// Asks the strategy about every candidate until it decides. A signal that several candidates
    /// need is computed for all of them at once. A candidate for which a signal is asked for that
    /// is known already continues.
    fn decide(
        &mut self,
        index: usize,
        (before, after): (&M::Hidden, &Packed<M::Hidden>),
        candidates: &mut [Candidate],
        strategy: &mut dyn Strategy,
    ) -> Result<(), DecodeError<M::Error>> {
        let at = Stop {
            index,
            exit: self.exits[index],
        };
        for candidate in candidates.iter_mut() {
            candidate.decision = strategy.decide(candidate.row, at, &candidate.signals);
        }
        // In any order that policies ask for them, each at most once.
        for _ in Signal::ALL {
            for signal in Signal::ALL {
                let asking = |c: &&mut Candidate| {
                    c.decision == ExitDecision::Ask(signal) && !c.signals.has(signal)
                };
                let mut asking: Vec<_> = candidates.iter_mut().filter(asking).collect();
                if asking.is_empty() {
                    continue;
                }
                let states: Vec<usize> = asking.iter().map(|c| c.state).collect();
                match signal {
                    Signal::Similarity => {
                        let cosines = self.cosines((before, &after.hidden), &states)?;
                        for (candidate, cosine) in asking.iter_mut().zip(cosines) {
                            candidate.signals.similarity = Some(cosine);
                        }
                    }
                    Signal::Probe => {
                        let found = self.probed(at.exit, &after.hidden, &states)?;
                        for (candidate, probability) in asking.iter_mut().zip(found) {
                            candidate.signals.probe = Some(probability);
                        }
                    }
                    Signal::Score => {
                        let request = HeadRequest {
                            early: Some(index),
                            scored: true,
                        };
                        let outputs = self.apply_head(after, &states, request)?;
                        for (candidate, output) in asking.iter_mut().zip(outputs) {
                            candidate.signals.score = output.score;
                            candidate.output = Some(output);
                        }
                    }
                }
                for candidate in asking {
                    candidate.decision = strategy.decide(candidate.row, at, &candidate.signals);
                }
            }
        }
        Ok(())
    }

    fn cosines(
        &self,
        (before, after): (&M::Hidden, &M::Hidden),
        states: &[usize],
    ) -> Result<Vec<f32>, DecodeError<M::Error>> {
        let (before, after) = (self.picked(before, states)?, self.picked(after, states)?);
        let pairs = before.iter().zip(&after);
        Ok(pairs
            .map(|(before, after)| cosine_similarity(before, after))
            .collect())
    }

    fn probed(
        &self,
        exit: Exit,
        hidden: &M::Hidden,
        states: &[usize],
    ) -> Result<Vec<f32>, DecodeError<M::Error>> {
        let probe = self.probes.as_ref().and_then(|probes| probes.at(exit));
        let exit = exit.depth();
        let probe = probe.ok_or_else(|| refused(PolicyError::NoProbe { exit }))?;
        let states = self.picked(hidden, states)?;
        let (expected, found) = (states.first().map_or(0, Vec::len), probe.weights.len());
        if found != expected {
            return Err(refused(PolicyError::ProbeWidth {
                exit,
                found,
                expected,
            }));
        }
        Ok(states.iter().map(|it| probe.probability(it)).collect())
    }

    /// The values of some packed states.
    fn picked(
        &self,
        hidden: &M::Hidden,
        states: &[usize],
    ) -> Result<Vec<Vec<f32>>, DecodeError<M::Error>> {
        let states = self.model.select(hidden, states);
        let read = states.and_then(|states| self.model.read_states(&states));
        read.map_err(DecodeError::Model)
    }

    /// The tokens of candidates that exit here. The head is applied where no policy required it.
    fn exiting(
        &mut self,
        index: usize,
        reached: &Packed<M::Hidden>,
        candidates: Vec<Candidate>,
        strategy: &dyn Strategy,
    ) -> Result<Vec<Exiting>, DecodeError<M::Error>> {
        let unread = candidates.iter().filter(|it| it.output.is_none());
        let states: Vec<usize> = unread.map(|candidate| candidate.state).collect();
        let request = HeadRequest {
            early: Some(index),
            scored: strategy.needs_probability(),
        };
        let mut outputs = if states.is_empty() {
            Vec::new()
        } else {
            self.apply_head(reached, &states, request)?
        }
        .into_iter();
        let mut exiting = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            if let Some(output) = candidate.output.or_else(|| outputs.next()) {
                exiting.push(self.token(index, candidate.row, output, strategy)?);
            }
        }
        Ok(exiting)
    }

    /// A token, its confidence, and the resulting probability of the draft.
    fn token(
        &self,
        index: usize,
        row: usize,
        output: HeadOutput,
        strategy: &dyn Strategy,
    ) -> Result<Exiting, DecodeError<M::Error>> {
        let state = &self.rows[row];
        let from = self.distribution(row, state.tokens.len(), &output)?;
        let (mut confidence, mut draft) = (1.0, 1.0);
        if strategy.verifies() {
            confidence = output.confidence(from.as_ref(), &self.sampling);
            draft = state.draft_probability * strategy.acceptance(index, confidence);
        }
        Ok(Exiting {
            row,
            best: output.token,
            from,
            confidence,
            draft,
        })
    }

    fn take_token(&mut self, index: usize, exiting: Exiting, drafts: bool) {
        let exit = self.exits[index];
        let row = &mut self.rows[exiting.row];
        let token = match &exiting.from {
            Some(distribution) => distribution.sample(&mut row.rng),
            None => exiting.best,
        };
        if !drafts {
            self.commit(Step {
                row: exiting.row,
                token,
                exit,
                accepted: false,
            });
            return;
        }
        row.tokens.push(token);
        row.drafts.push(Drafted {
            exit,
            from: exiting.from,
            confidence: exiting.confidence,
        });
        row.draft_probability = exiting.draft;
        self.statistics.drafted += 1;
    }
}

fn refused<E: std::error::Error>(error: PolicyError) -> DecodeError<E> {
    DecodeError::Settings(error.into())
}

impl Exiting {
    fn proposal(&self) -> Proposal<'_> {
        Proposal {
            row: self.row,
            best: self.best,
            from: self.from.as_ref(),
            confidence: self.confidence,
            draft: self.draft,
        }
    }
}
