//! Dynamic mode: tokens that exit early are part of the answer (Sorted LLaMA, section 4.4).

use super::Strategy;
use crate::model::Stop;
use crate::policy::exit_policy::{ExitDecision, ExitPolicy, ExitSignals};

pub(in crate::decode) struct Dynamic {
    policies: Vec<Box<dyn ExitPolicy>>,
}

impl Dynamic {
    pub fn new(policy: &dyn ExitPolicy, rows: usize) -> Self {
        Self {
            policies: (0..rows).map(|_| policy.for_row()).collect(),
        }
    }
}

impl Strategy for Dynamic {
    fn begin_round(&mut self, _open: usize, _drafting: bool) -> bool {
        true
    }

    fn next_token(&mut self, row: usize) {
        self.policies[row].next_token();
    }

    fn decide(&mut self, row: usize, at: Stop, signals: &ExitSignals) -> ExitDecision {
        self.policies[row].decide(at.exit, signals)
    }
}
