//! At the full depth, the next tokens are generated, and drafts are accepted or replaced.
//!
//! Greedy drafts are accepted if they equal the token of the full model. Sampled drafts are
//! accepted or rejected such that the answer has exactly the distribution of the full model
//! (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318).

use super::engine::Engine;
use super::head::{HeadOutput, Picked};
use super::logprobs::TokenLogprobs;
use super::packed::Packed;
use super::round::Turn;
use super::step::Step;
use super::strategies::Strategies;
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
    /// Continues the answers of rows at their last exit, which is that of this index; sets the number
    /// of their final tokens in `certain`.
    pub(super) fn continue_answers(
        &mut self,
        index: usize,
        states: &Packed<M::Hidden>,
        turn: &Turn,
        (strategies, certain): (&mut Strategies, &mut [Option<usize>]),
    ) -> Result<(), DecodeError<M::Error>> {
        let (mut rows, mut picked) = (Vec::new(), Vec::new());
        for (row, last) in states.last_of_rows() {
            let used = self.states_used(row, turn);
            let states = (last + 1 - used..=last).map(|state| Picked {
                state,
                scored: false,
            });
            picked.extend(states);
            rows.push((row, used));
        }
        let mut outputs = self.apply_head(index, states, &picked)?.into_iter();
        for (row, used) in rows {
            let mut outputs: Vec<_> = outputs.by_ref().take(used).collect();
            if self.scores_prompt_now(row) {
                self.score_prompt(row, &outputs);
                outputs.drain(..used - usize::from(turn.generates[row]));
            }
            if outputs.is_empty() {
                continue;
            }
            if self.rows[row].committed == self.rows[row].limit.tokens {
                // Only the prompt was to be scored.
                self.rows[row].end_at_limit();
                continue;
            }
            let drafted = self.rows[row].drafts.len();
            let continued = self.continue_answer(row, &outputs, strategies)?;
            certain[row] = Some(continued.certain);
            if drafted > 0 {
                self.statistics.checked += drafted.min(continued.accepted + 1) as u64;
                self.statistics.accepted += continued.accepted as u64;
                let strategy = strategies.of_mut(&self.rows[row]);
                strategy.draft_verified(drafted, continued.accepted);
                self.forget_drafts(row)?;
            }
        }
        Ok(())
    }

    /// Number of the newest states of `row` to which the head is applied.
    fn states_used(&self, row: usize, turn: &Turn) -> usize {
        if self.scores_prompt_now(row) {
            return turn.feeds[row];
        }
        // One state per draft to verify, and one that generates the token after them.
        self.rows[row].drafts.len() + usize::from(turn.generates[row])
    }

    fn scores_prompt_now(&self, row: usize) -> bool {
        !self.counted[row] && self.rows[row].scores_prompt()
    }

    /// Keeps the log-probabilities of the tokens of a prompt after those just fed.
    fn score_prompt(&mut self, row: usize, outputs: &[HeadOutput]) {
        let state = &mut self.rows[row];
        let next = state.prompt_fed + 1 - outputs.len();
        let top = state.logprobs.map_or(0, |kept| kept.top);
        let tokens = state.tokens[..state.prompt].iter().skip(next);
        for (&token, output) in tokens.zip(outputs) {
            if let Some(logits) = &output.logits {
                state
                    .prompt_logprobs
                    .push(TokenLogprobs::of(token, logits, top));
            }
        }
    }

    /// Verifies the drafts of `row` and generates the token after the last accepted one.
    fn continue_answer(
        &mut self,
        row: usize,
        outputs: &[HeadOutput],
        strategies: &mut Strategies,
    ) -> Result<Continued, DecodeError<M::Error>> {
        let mut continued = Continued::default();
        for output in outputs {
            continued.certain += 1;
            let from = self.distribution(row, self.rows[row].committed, output)?;
            let generated = (output.token, from.as_ref());
            let strategy = strategies.of_mut(&self.rows[row]);
            let step = if continued.accepted < self.rows[row].drafts.len() {
                self.verify((row, continued.accepted), generated, strategy)
            } else {
                self.generate(row, generated, strategy)
            };
            continued.accepted += usize::from(step.accepted);
            let open = self.commit(step, output);
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
        let full = self.last_exit(row);
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
            exit: self.last_exit(row),
            accepted: false,
        }
    }
}
