//! Signals for exit policies, computed when a policy asks for them.

use super::engine::Engine;
use super::head::{HeadOutput, Picked};
use super::packed::Packed;
use super::strategies::Strategies;
use crate::decode::settings::DecodeError;
use crate::exit::Exit;
use crate::model::Stop;
use crate::model::decode_model::DecodeModel;
use crate::policy::error::PolicyError;
use crate::policy::exit_policy::{ExitDecision, ExitSignals, Signal};
use crate::policy::probe::cosine_similarity;

/// A token that may exit.
pub(super) struct Candidate {
    pub row: usize,
    pub state: usize,
    pub signals: ExitSignals,
    pub output: Option<HeadOutput>,
    pub decision: ExitDecision,
}

impl Candidate {
    pub fn new((row, state): (usize, usize)) -> Self {
        Self {
            row,
            state,
            signals: ExitSignals::default(),
            output: None,
            decision: ExitDecision::Continue,
        }
    }

    pub fn picked(&self, scored: bool) -> Picked {
        Picked {
            state: self.state,
            scored,
        }
    }
}

/// Where states were earlier in the round: after the embedding (`None`) and at exits.
pub(super) type Earlier<H> = [(Option<usize>, Packed<H>)];

impl<M: DecodeModel> Engine<'_, M> {
    /// Asks the strategies about every candidate until they decide. A signal that several
    /// candidates need is computed for all of them at once. A candidate for which a signal is asked
    /// for that is known already continues.
    pub(super) fn decide(
        &mut self,
        (index, states): (usize, &Packed<M::Hidden>),
        earlier: &Earlier<M::Hidden>,
        candidates: &mut [Candidate],
        strategies: &mut Strategies,
    ) -> Result<(), DecodeError<M::Error>> {
        for candidate in candidates.iter_mut() {
            self.ask(index, candidate, strategies);
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
                self.compute(signal, (index, states), earlier, &mut asking)?;
                for candidate in asking {
                    self.ask(index, candidate, strategies);
                }
            }
        }
        Ok(())
    }

    fn ask(&self, index: usize, candidate: &mut Candidate, strategies: &mut Strategies) {
        let row = &self.rows[candidate.row];
        if let Some(own) = row.exits.own(index) {
            let at = Stop {
                index: own,
                exit: self.exits[index],
            };
            candidate.decision = strategies.of_mut(row).decide(at, &candidate.signals);
        }
    }

    /// Computes a signal for candidates.
    fn compute(
        &mut self,
        signal: Signal,
        (index, after): (usize, &Packed<M::Hidden>),
        earlier: &Earlier<M::Hidden>,
        candidates: &mut [&mut Candidate],
    ) -> Result<(), DecodeError<M::Error>> {
        match signal {
            Signal::Similarity => self.compare((index, after), earlier, candidates)?,
            Signal::Probe => {
                let states: Vec<usize> = candidates.iter().map(|c| c.state).collect();
                let found = self.probed(self.exits[index], &after.hidden, &states)?;
                for (candidate, probability) in candidates.iter_mut().zip(found) {
                    candidate.signals.probe = Some(probability);
                }
            }
            Signal::Score => {
                let picked: Vec<_> = candidates.iter().map(|c| c.picked(true)).collect();
                let outputs = self.apply_head(index, after, &picked)?;
                for (candidate, output) in candidates.iter_mut().zip(outputs) {
                    candidate.signals.score = output.score;
                    candidate.output = Some(output);
                }
            }
        }
        Ok(())
    }

    /// Compares the states of candidates with those at the exit before of their row.
    fn compare(
        &self,
        (index, after): (usize, &Packed<M::Hidden>),
        earlier: &Earlier<M::Hidden>,
        candidates: &mut [&mut Candidate],
    ) -> Result<(), DecodeError<M::Error>> {
        for (stop, before) in earlier {
            let newest = before.last_of_rows();
            let at = |c: &Candidate| newest.iter().find(|(row, _)| *row == c.row).map(|it| it.1);
            let here = candidates
                .iter_mut()
                .filter(|c| self.rows[c.row].exits.before(index) == *stop);
            let (mut here, (mut from, mut to)) = (here.collect::<Vec<_>>(), (vec![], vec![]));
            here.retain(|candidate| {
                let state = at(candidate);
                from.extend(state);
                to.extend(state.map(|_| candidate.state));
                state.is_some()
            });
            if here.is_empty() {
                continue;
            }
            let (from, to) = (
                self.picked(&before.hidden, &from)?,
                self.picked(&after.hidden, &to)?,
            );
            for (candidate, (before, after)) in here.iter_mut().zip(from.iter().zip(&to)) {
                candidate.signals.similarity = Some(cosine_similarity(before, after));
            }
        }
        Ok(())
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
}

fn refused<E: std::error::Error>(error: PolicyError) -> DecodeError<E> {
    DecodeError::Settings(error.into())
}
