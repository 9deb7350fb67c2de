//! At the full depth: tokens are named, and drafts accepted or replaced.
//!
//! Greedy drafts are accepted when they are what the full model names; sampled ones by rejection, so that the answer
//! has exactly the distribution of the full model (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318).

use super::decoder::{Decoder, Kind};
use super::leave::Reading;
use super::packed::Packed;
use super::round::Turn;
use super::tuner::Cycle;
use super::{DecodeError, DecodeModel};
use crate::{Checked, check_draft};

impl<M: DecodeModel> Decoder<'_, M> {
    /// Reads the states of rows that ran to the full depth and goes on with their answers.
    pub(super) fn answer_at_full_depth(
        &mut self,
        states: &Packed<M::Hidden>,
        turn: &Turn,
    ) -> Result<(), DecodeError<M::Error>> {
        let (mut rows, mut picked) = (Vec::new(), Vec::new());
        for (row, last) in states.last_of_rows() {
            // One state per draft that it checks, and one that names the token after them.
            let reads = self.rows[row].drafts.len() + usize::from(turn.feeds[row]);
            picked.extend(last + 1 - reads..=last);
            rows.push((row, reads));
        }
        let mut readings = self.read(&states.hidden, &picked, None, false)?.into_iter();
        for (row, reads) in rows {
            let readings: Vec<_> = readings.by_ref().take(reads).collect();
            let drafted = self.rows[row].drafts.len();
            let accepted = self.go_on(row, &readings)?;
            if drafted > 0 {
                self.learn(row, drafted, accepted);
                self.forget_drafts(row);
            }
        }
        Ok(())
    }

    /// Checks the drafts of `row` and names the token after the last accepted one. Returns how many were accepted.
    fn go_on(&mut self, row: usize, readings: &[Reading]) -> Result<usize, DecodeError<M::Error>> {
        let full = self.exits[self.exits.len() - 1];
        let mut accepted = 0;
        for reading in readings {
            let state = &self.rows[row];
            let from = self.distribution(row, state.committed, reading)?;
            let state = &mut self.rows[row];
            let (token, exit, is_accepted) = match (state.drafts.get(accepted), &from) {
                (None, None) => (reading.token, full, false),
                (None, Some(full_model)) => (full_model.sample(&mut state.rng), full, false),
                (Some(draft), from) => {
                    let drafted = state.tokens[state.committed];
                    let checked = match (&draft.from, from) {
                        (Some(draft), Some(full)) => {
                            check_draft(drafted, draft, full, &mut state.rng)
                        }
                        _ if drafted == reading.token => Checked::Accepted,
                        _ => Checked::Replaced(reading.token),
                    };
                    match checked {
                        Checked::Accepted => (drafted, draft.exit, true),
                        Checked::Replaced(token) => (token, full, false),
                    }
                }
            };
            accepted += usize::from(is_accepted);
            let goes_on = self.commit(row, token, exit, is_accepted);
            if !goes_on || !is_accepted {
                break;
            }
        }
        Ok(accepted)
    }

    fn learn(&mut self, row: usize, drafted: usize, accepted: usize) {
        self.statistics.checked += drafted.min(accepted + 1) as u64;
        self.statistics.accepted += accepted as u64;
        match &mut self.kind {
            Kind::Speculative { .. } => self.rows[row].length.checked(drafted, accepted),
            Kind::Auto {
                tuner,
                cycle: Cycle::Draft { exit, .. },
            } => {
                tuner.checked(*exit, drafted, accepted);
            }
            _ => {}
        }
    }
}
