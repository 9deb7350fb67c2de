//! At the full depth, the next tokens are generated, and drafts are accepted or replaced.
//!
//! Greedy drafts are accepted if they equal the token of the full model. Sampled drafts are
//! accepted or rejected such that the answer has exactly the distribution of the full model
//! (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318).

use super::engine::Engine;
use super::head::{HeadOutput, HeadRequest};
use super::packed::Packed;
use super::round::Turn;
use super::step::Step;
use super::strategy::Strategy;
use crate::decode::settings::DecodeError;
use crate::model::decode_model::DecodeModel;
use crate::sampling::acceptance::{Verification, verify_draft};
use crate::sampling::distribution::Distribution;

#[derive(Default)]
struct Continued {
    accepted: usize,
    /// Tokens that became final.
    certain: usize,
}

impl<M: DecodeModel> Engine<'_, M> {
    /// Continues the answers of rows at the full depth; returns the number of final tokens per row.
    pub(super) fn continue_answers(
        &mut self,
        states: &Packed<M::Hidden>,
        turn: &Turn,
        strategy: &mut dyn Strategy,
    ) -> Result<f64, DecodeError<M::Error>> {
        let (mut rows, mut picked) = (Vec::new(), Vec::new());
        for (row, last) in states.last_of_rows() {
            // One state per draft to verify, and one that generates the token after them.
            let used = self.rows[row].drafts.len() + usize::from(turn.feeds[row]);
            picked.extend(last + 1 - used..=last);
            rows.push((row, used));
        }
        let request = HeadRequest {
            early: None,
            scored: false,
        };
        let outputs = self.apply_head(states, &picked, request)?;
        let mut outputs = outputs.into_iter();
        let (mut certain, count) = (0, rows.len());
        for (row, used) in rows {
            let outputs: Vec<_> = outputs.by_ref().take(used).collect();
            let drafted = self.rows[row].drafts.len();
            let continued = self.continue_answer(row, &outputs, strategy)?;
            certain += continued.certain;
            if drafted > 0 {
                self.statistics.checked += drafted.min(continued.accepted + 1) as u64;
                self.statistics.accepted += continued.accepted as u64;
                strategy.draft_verified(row, drafted, continued.accepted);
                self.forget_drafts(row)?;
            }
        }
        Ok(certain as f64 / count.max(1) as f64)
    }

    /// Verifies the drafts of `row` and generates the token after the last accepted one.
    fn continue_answer(
        &mut self,
        row: usize,
        outputs: &[HeadOutput],
        strategy: &mut dyn Strategy,
    ) -> Result<Continued, DecodeError<M::Error>> {
        let mut continued = Continued::default();
        for output in outputs {
            continued.certain += 1;
            let from = self.distribution(row, self.rows[row].committed, output)?;
            let step = if continued.accepted < self.rows[row].drafts.len() {
                self.verify(
                    (row, continued.accepted),
                    (output.token, from.as_ref()),
                    strategy,
                )
            } else {
                self.generate(row, (output.token, from.as_ref()), strategy)
            };
            continued.accepted += usize::from(step.accepted);
            let open = self.commit(step);
            if !open || !step.accepted {
                break;
            }
        }
        Ok(continued)
    }

    /// Accepts or replaces a draft (row and index) by the full model's best token and distribution.
    fn verify(
        &mut self,
        (row, index): (usize, usize),
        (best, from): (u32, Option<&Distribution>),
        strategy: &mut dyn Strategy,
    ) -> Step {
        let full = self.last_exit();
        let state = &mut self.rows[row];
        let (draft, token) = (&state.drafts[index], state.tokens[state.committed]);
        let verification = match (&draft.from, from) {
            (Some(draft), Some(full)) => verify_draft(token, draft, full, &mut state.rng),
            _ if token == best => Verification::Accepted,
            _ => Verification::Replaced(best),
        };
        let accepted = verification == Verification::Accepted;
        strategy.token_verified(draft.confidence, accepted);
        let (token, exit) = match verification {
            Verification::Accepted => (token, draft.exit),
            Verification::Replaced(token) => (token, full),
        };
        Step {
            row,
            token,
            exit,
            accepted,
        }
    }

    fn generate(
        &mut self,
        row: usize,
        (best, from): (u32, Option<&Distribution>),
        strategy: &mut dyn Strategy,
    ) -> Step {
        let token = match from {
            None => best,
            Some(full) => full.sample(&mut self.rows[row].rng),
        };
        strategy.token_generated(row, best, from);
        Step {
            row,
            token,
            exit: self.last_exit(),
            accepted: false,
        }
    }
}
