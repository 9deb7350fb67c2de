//! Early exits: which tokens exit, and whether they are committed or drafted.

use std::time::Instant;

use super::engine::Engine;
use super::head::HeadOutput;
use super::packed::Packed;
use super::round::Turn;
use super::row::Drafted;
use super::signals::{Candidate, Earlier};
use super::step::Step;
use super::strategies::Strategies;
use super::strategy::Proposal;
use crate::decode::settings::DecodeError;
use crate::model::decode_model::DecodeModel;
use crate::policy::exit_policy::ExitDecision;
use crate::sampling::distribution::Distribution;

struct Exiting {
    row: usize,
    /// Of the head, with the best token.
    output: HeadOutput,
    /// The sampling distribution; `None` for greedy decoding without a penalty.
    from: Option<Distribution>,
    confidence: f64,
    /// Probability that the row's draft is accepted, including this token.
    draft: f64,
}

impl<M: DecodeModel> Engine<'_, M> {
    /// Decides which rows exit at the exit of this index with these states. Their tokens are
    /// committed or drafted.
    pub(super) fn exit_early(
        &mut self,
        (index, states): (usize, &Packed<M::Hidden>),
        earlier: &Earlier<M::Hidden>,
        turn: &mut Turn,
        strategies: &mut Strategies,
    ) -> Result<Vec<bool>, DecodeError<M::Error>> {
        let mut exited = vec![false; self.rows.len()];
        let may_exit = |&(row, _): &(usize, usize)| {
            turn.feeds[row] > 0 && self.may_exit_at(index, row, turn, strategies)
        };
        let newest = states.last_of_rows().into_iter().filter(may_exit);
        let mut candidates: Vec<Candidate> = newest.map(Candidate::new).collect();
        if candidates.is_empty() {
            return Ok(exited);
        }
        let begun = Instant::now();
        self.decide((index, states), earlier, &mut candidates, strategies)?;
        candidates.retain(|candidate| candidate.decision == ExitDecision::Exit);
        let exiting = self.exiting(index, states, candidates, strategies)?;
        let verified = self.verified_now(index, &exiting, strategies);
        let last = |row: usize| self.rows[row].exits.last();
        let deepest = (0..self.rows.len())
            .filter(|row| verified[*row])
            .map(last)
            .max();
        if let Some(deepest) = deepest {
            for (row, through) in turn.through.iter_mut().enumerate() {
                let runs_anyway = turn.feeds[row] > 0 && last(row) <= deepest;
                *through |= verified[row] || runs_anyway && strategies.joins(&self.rows[row]);
            }
            turn.asking = begun.elapsed();
        }
        for token in exiting {
            if !turn.through[token.row] {
                exited[token.row] = true;
                let drafts = strategies.of(&self.rows[token.row]).verifies();
                self.take_token(index, token, drafts);
            }
        }
        Ok(exited)
    }

    /// Rows whose strategy verifies now instead of drafting these tokens.
    fn verified_now(
        &self,
        index: usize,
        exiting: &[Exiting],
        strategies: &mut Strategies,
    ) -> Vec<bool> {
        let mut verified = vec![false; self.rows.len()];
        for strategy in 0..strategies.len() {
            let of_strategy = exiting
                .iter()
                .filter(|it| self.rows[it.row].strategy == strategy);
            let proposals: Vec<Proposal> = of_strategy.map(Exiting::proposal).collect();
            let Some(first) = proposals.first() else {
                continue;
            };
            let Some(own) = self.rows[first.row].exits.own(index) else {
                continue;
            };
            if strategies.at_mut(strategy).verifies_now(own, &proposals) {
                for proposal in proposals {
                    verified[proposal.row] = true;
                }
            }
        }
        verified
    }

    /// The tokens of candidates that exit here. The head is applied where no policy required it.
    fn exiting(
        &mut self,
        index: usize,
        reached: &Packed<M::Hidden>,
        candidates: Vec<Candidate>,
        strategies: &Strategies,
    ) -> Result<Vec<Exiting>, DecodeError<M::Error>> {
        let unread = candidates.iter().filter(|it| it.output.is_none());
        let scored = |it: &Candidate| strategies.of(&self.rows[it.row]).needs_probability();
        let picked: Vec<_> = unread.map(|it| it.picked(scored(it))).collect();
        let mut outputs = self.apply_head(index, reached, &picked)?.into_iter();
        let mut exiting = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            if let Some(output) = candidate.output.or_else(|| outputs.next()) {
                exiting.push(self.token(index, candidate.row, output, strategies)?);
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
        strategies: &Strategies,
    ) -> Result<Exiting, DecodeError<M::Error>> {
        let state = &self.rows[row];
        let strategy = strategies.of(state);
        let from = self.distribution(row, state.tokens.len(), &output)?;
        let (mut confidence, mut draft) = (1.0, 1.0);
        if let Some(own) = state.exits.own(index).filter(|_| strategy.verifies()) {
            confidence = output.confidence(from.as_ref(), &state.sampling);
            draft = state.draft_probability * strategy.acceptance(own, confidence);
        }
        Ok(Exiting {
            row,
            output,
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
            None => exiting.output.token,
        };
        if !drafts {
            let step = Step {
                row: exiting.row,
                token,
                exit,
                accepted: false,
            };
            self.commit(step, &exiting.output);
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

impl Exiting {
    fn proposal(&self) -> Proposal<'_> {
        Proposal {
            row: self.row,
            best: self.output.token,
            from: self.from.as_ref(),
            confidence: self.confidence,
            draft: self.draft,
        }
    }
}
