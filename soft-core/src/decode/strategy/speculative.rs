//! Speculative mode: tokens that exit early are drafts, which the full model verifies.

use super::{Proposal, Strategy};
use crate::decode::draft::{DraftLength, DraftLimit};
use crate::model::Stop;
use crate::policy::exit_policy::{ExitDecision, ExitPolicy, ExitSignals};

/// Exits as in dynamic mode, and a draft length.
pub(in crate::decode) struct Speculative {
    policy: Box<dyn ExitPolicy>,
    length: DraftLength,
    limit: DraftLimit,
}

impl Speculative {
    pub fn new(policy: Box<dyn ExitPolicy>, length: DraftLength) -> Self {
        Self {
            policy,
            length,
            limit: DraftLimit::new(length),
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

    fn begin_round(&mut self, _open: usize, _drafting: bool) -> bool {
        true
    }

    fn next_token(&mut self) {
        self.policy.next_token();
    }

    fn decide(&mut self, at: Stop, signals: &ExitSignals) -> ExitDecision {
        self.policy.decide(at.exit, signals)
    }

    fn draft_limit(&self) -> usize {
        self.limit.most()
    }

    fn verifies_now(&mut self, _index: usize, proposals: &[Proposal]) -> bool {
        let mut proposals = proposals.iter();
        proposals.any(|proposal| self.limit.is_doubtful(proposal.draft))
    }

    fn draft_verified(&mut self, drafted: usize, accepted: usize) {
        self.limit.checked(drafted, accepted);
    }
}
