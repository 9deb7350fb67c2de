//! Dynamic mode: tokens that exit early are part of the answer (Sorted LLaMA, section 4.4).

use super::Strategy;
use crate::model::Stop;
use crate::policy::exit_policy::{ExitDecision, ExitPolicy, ExitSignals};

pub(in crate::decode) struct Dynamic(pub Box<dyn ExitPolicy>);

impl Strategy for Dynamic {
    fn begin_round(&mut self, _open: usize, _drafting: bool) -> bool {
        true
    }

    fn next_token(&mut self) {
        self.0.next_token();
    }

    fn decide(&mut self, at: Stop, signals: &ExitSignals) -> ExitDecision {
        self.0.decide(at.exit, signals)
    }
}
