//! Automatic mode: speculation at the exit and length that the tuner finds best, or plain decoding.

use super::{Proposal, RoundSummary, Strategy};
use crate::decode::tuner::{CheckRound, Cycle, MOST_DRAFTED, Tuner};
use crate::model::Stop;
use crate::policy::exit_policy::{ExitDecision, ExitSignals};
use crate::sampling::distribution::Distribution;

/// A token that was proposed but not drafted; the tuner learns whether it would have been accepted.
struct Declined {
    token: u32,
    from: Option<Distribution>,
    confidence: f64,
}

pub(in crate::decode) struct Auto {
    tuner: Tuner,
    cycle: Cycle,
    /// One per row of the decoder.
    declined: Vec<Option<Declined>>,
}

impl Auto {
    pub fn new(tuner: Tuner, rows: usize) -> Self {
        Self {
            tuner,
            cycle: Cycle::Plain,
            declined: (0..rows).map(|_| None).collect(),
        }
    }

    /// Reports the probability that a token of this confidence is accepted to the tuner.
    fn observe(&mut self, confidence: f64, accepted: f64, drafted: bool) {
        if let Cycle::Draft { exit } = self.cycle {
            self.tuner.checked(exit, confidence, accepted, drafted);
        }
    }
}

impl Strategy for Auto {
    fn is_shared(&self) -> bool {
        true
    }

    fn row_joins(&mut self, row: usize) {
        self.declined[row] = None;
    }

    fn verifies(&self) -> bool {
        true
    }

    fn needs_probability(&self) -> bool {
        true
    }

    fn suspend(&mut self) {
        self.cycle = Cycle::Plain;
        self.declined.fill_with(|| None);
    }

    fn begin_round(&mut self, open: usize, drafting: bool) -> bool {
        if !drafting {
            self.cycle = self.tuner.next_cycle(open);
        }
        self.cycle != Cycle::Plain
    }

    fn stops_at(&self, index: usize) -> bool {
        self.cycle.drafts_at(index)
    }

    fn decide(&mut self, at: Stop, _signals: &ExitSignals) -> ExitDecision {
        if self.cycle.drafts_at(at.index) {
            ExitDecision::Exit
        } else {
            ExitDecision::Continue
        }
    }

    fn draft_limit(&self) -> usize {
        MOST_DRAFTED
    }

    fn acceptance(&self, index: usize, confidence: f64) -> f64 {
        self.tuner.chance(index, confidence)
    }

    fn verifies_now(&mut self, index: usize, proposals: &[Proposal]) -> bool {
        if proposals.is_empty() {
            return false;
        }
        let sum: f64 = proposals.iter().map(|proposal| proposal.draft).sum();
        if self.tuner.pays(index, sum / proposals.len() as f64) {
            return false;
        }
        for proposal in proposals {
            self.declined[proposal.row] = Some(Declined {
                token: proposal.best,
                from: proposal.from.cloned(),
                confidence: proposal.confidence,
            });
        }
        true
    }

    fn token_verified(&mut self, confidence: f64, accepted: bool) {
        self.observe(confidence, f64::from(accepted), true);
    }

    fn token_generated(&mut self, row: usize, best: u32, from: Option<&Distribution>) {
        let Some(declined) = self.declined[row].take() else {
            return;
        };
        let accepted = match (&declined.from, from) {
            (Some(draft), Some(full)) => draft.overlap(full),
            _ => f64::from(declined.token == best),
        };
        self.observe(declined.confidence, accepted, false);
    }

    fn end_round(&mut self, round: &RoundSummary) {
        // A row whose drafts were rejected generates no token that would clear its entry.
        if round.certain.is_some() {
            self.declined.fill_with(|| None);
        }
        match (self.cycle, round.certain) {
            (Cycle::Draft { exit }, None) => self.tuner.draft_round(exit, round.time),
            (Cycle::Draft { exit }, Some(tokens)) if round.drafted > 0 || round.asked => {
                let check = CheckRound {
                    drafted: round.drafted,
                    tokens,
                    time: round.time,
                    asking: round.asking,
                };
                self.tuner.check_round(exit, check);
            }
            // This includes rows at their limit, which draft nothing and ask no exit.
            _ => self.tuner.plain_round(round.time),
        }
    }

    fn into_tuner(self: Box<Self>) -> Option<Tuner> {
        Some(self.tuner)
    }
}
