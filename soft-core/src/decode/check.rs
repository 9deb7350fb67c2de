//! At the full depth: tokens are named, and drafts accepted or replaced.
//!
//! Greedy drafts are accepted when they are what the full model names; sampled ones by rejection, so that the answer
//! has exactly the distribution of the full model (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318).

use super::decoder::Kind;
use super::leave::Reading;
use super::packed::Packed;
use super::round::Turn;
use super::tuner::Cycle;
use crate::decode::decoder::Decoder;
use crate::decode::settings::DecodeError;
use crate::exit::Exit;
use crate::model::decode_model::DecodeModel;
use crate::sampling::acceptance::{Verification, verify_draft};
use crate::sampling::distribution::Distribution;

/// A token that is certain, and who named it.
struct Named {
    token: u32,
    exit: Exit,
    accepted: bool,
}

impl<M: DecodeModel> Decoder<'_, M> {
    /// Reads the states of rows that ran to the full depth and goes on with their answers. Returns how many tokens
    /// became certain, per row.
    pub(super) fn answer_at_full_depth(
        &mut self,
        states: &Packed<M::Hidden>,
        turn: &Turn,
    ) -> Result<f64, DecodeError<M::Error>> {
        let (mut rows, mut picked) = (Vec::new(), Vec::new());
        for (row, last) in states.last_of_rows() {
            // One state per draft that it checks, and one that names the token after them.
            let reads = self.rows[row].drafts.len() + usize::from(turn.feeds[row]);
            picked.extend(last + 1 - reads..=last);
            rows.push((row, reads));
        }
        let mut readings = self.read(&states.hidden, &picked, None, false)?.into_iter();
        let (mut certain, asked) = (0, rows.len());
        for (row, reads) in rows {
            let readings: Vec<_> = readings.by_ref().take(reads).collect();
            let drafted = self.rows[row].drafts.len();
            let (accepted, named) = self.go_on(row, &readings)?;
            self.rows[row].doubted = None;
            certain += named;
            if drafted > 0 {
                self.statistics.checked += drafted.min(accepted + 1) as u64;
                self.statistics.accepted += accepted as u64;
                self.rows[row].length.checked(drafted, accepted);
                self.forget_drafts(row);
            }
        }
        Ok(certain as f64 / asked.max(1) as f64)
    }

    /// Checks the drafts of `row` and names the token after the last accepted one. Returns how many were accepted, and
    /// how many tokens became certain.
    fn go_on(
        &mut self,
        row: usize,
        readings: &[Reading],
    ) -> Result<(usize, usize), DecodeError<M::Error>> {
        let (mut accepted, mut certain) = (0, 0);
        for reading in readings {
            certain += 1;
            let from = self.distribution(row, self.rows[row].committed, reading)?;
            let named = if accepted < self.rows[row].drafts.len() {
                self.check(row, accepted, reading.token, from)
            } else {
                self.name(row, reading.token, from)
            };
            accepted += usize::from(named.accepted);
            let goes_on = self.commit(row, named.token, named.exit, named.accepted);
            if !goes_on || !named.accepted {
                break;
            }
        }
        Ok((accepted, certain))
    }

    /// What the full model makes of the draft of this index; `best` is its own best token, or it draws `from`.
    fn check(&mut self, row: usize, index: usize, best: u32, from: Option<Distribution>) -> Named {
        let state = &mut self.rows[row];
        let (draft, token) = (&state.drafts[index], state.tokens[state.committed]);
        let checked = match (&draft.from, &from) {
            (Some(draft), Some(full)) => verify_draft(token, draft, full, &mut state.rng),
            _ if token == best => Verification::Accepted,
            _ => Verification::Replaced(best),
        };
        let (exit, confidence) = (draft.exit, draft.confidence);
        self.observe(
            confidence,
            f64::from(checked == Verification::Accepted),
            true,
        );
        match checked {
            Verification::Accepted => Named {
                token,
                exit,
                accepted: true,
            },
            Verification::Replaced(token) => self.by_full_model(token),
        }
    }

    /// The full model's own next token, and whether an exit that was too doubtful to draft it had been right.
    fn name(&mut self, row: usize, best: u32, from: Option<Distribution>) -> Named {
        let state = &mut self.rows[row];
        let token = match &from {
            None => best,
            Some(full) => full.sample(&mut state.rng),
        };
        if let Some(doubted) = state.doubted.take() {
            let chance = match (&doubted.from, &from) {
                (Some(draft), Some(full)) => draft.overlap(full),
                _ => f64::from(doubted.token == best),
            };
            self.observe(doubted.confidence, chance, false);
        }
        self.by_full_model(token)
    }

    fn by_full_model(&self, token: u32) -> Named {
        Named {
            token,
            exit: self.exits[self.exits.len() - 1],
            accepted: false,
        }
    }

    /// Automatic mode learns what an exit's confidence is worth.
    fn observe(&mut self, confidence: f64, accepted: f64, drafted: bool) {
        if let Kind::Auto {
            tuner,
            cycle: Cycle::Draft { exit },
        } = &mut self.kind
        {
            tuner.checked(*exit, confidence, accepted, drafted);
        }
    }
}
