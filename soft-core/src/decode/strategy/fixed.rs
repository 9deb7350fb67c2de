//! Static mode: one sub-model generates every token.

use super::Strategy;
use crate::model::Stop;
use crate::policy::exit_policy::{ExitDecision, ExitSignals};

pub(in crate::decode) struct Fixed;

impl Strategy for Fixed {
    fn begin_round(&mut self, _open: usize, _drafting: bool) -> bool {
        false
    }

    fn decide(&mut self, _at: Stop, _signals: &ExitSignals) -> ExitDecision {
        ExitDecision::Continue
    }
}
