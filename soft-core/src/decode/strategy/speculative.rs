//! Speculative mode: tokens that exit early are drafts, which the full model verifies.

use super::{Dynamic, Proposal, Strategy};
use crate::decode::draft::{DraftLength, DraftLimit};
use crate::model::Stop;
use crate::policy::exit_policy::{ExitDecision, ExitPolicy, ExitSignals};

/// Exits as in dynamic mode, and one draft length per row.
pub(in crate::decode) struct Speculative {
    exits: Dynamic,
    length: DraftLength,
    limits: Vec<DraftLimit>,
}

impl Speculative {
    pub fn new(policy: &dyn ExitPolicy, length: DraftLength, rows: usize) -> Self {
        Self {
            exits: Dynamic::new(policy, rows),
            length,
            limits: vec![DraftLimit::new(length); rows],
        }
    }
}

impl Strategy for Speculative {
    fn verifies(&self) -> bool {
        true
    }

    fn needs_probability(&self) -> bool {
        self.length.needs_probability()
    }

    fn begin_round(&mut self, open: usize, drafting: bool) -> bool {
        self.exits.begin_round(open, drafting)
    }

    fn next_token(&mut self, row: usize) {
        self.exits.next_token(row);
    }

    fn decide(&mut self, row: usize, at: Stop, signals: &ExitSignals) -> ExitDecision {
        self.exits.decide(row, at, signals)
    }

    fn draft_limit(&self, row: usize) -> usize {
        self.limits[row].most()
    }

    fn verifies_now(&mut self, _index: usize, proposals: &[Proposal]) -> bool {
        let doubtful = |proposal: &Proposal| self.limits[proposal.row].is_doubtful(proposal.draft);
        proposals.iter().any(doubtful)
    }

    fn draft_verified(&mut self, row: usize, drafted: usize, accepted: usize) {
        self.limits[row].checked(drafted, accepted);
    }
}
