//! The decisions of a decoding mode; the engine computes.
//!
//! A strategy uses rows, exits, signals and probabilities, but no tensors. The engine calls it at
//! fixed points of a round, and it calls the exit policy. Every row has its own, except that rows in
//! automatic mode share one. Indices of exits are those of the row's own exits.

mod auto;
mod dynamic;
mod fixed;
mod speculative;

pub(super) use auto::Auto;
pub(super) use dynamic::Dynamic;
pub(super) use fixed::Fixed;
pub(super) use speculative::Speculative;

use std::time::Duration;

use super::tuner::Tuner;
use crate::model::Stop;
use crate::policy::exit_policy::{ExitDecision, ExitSignals};
use crate::sampling::distribution::Distribution;

/// A token that could be drafted at an exit.
pub(super) struct Proposal<'a> {
    pub row: usize,
    /// The exit's best token.
    pub best: u32,
    /// The sampling distribution; `None` for greedy decoding without a penalty.
    pub from: Option<&'a Distribution>,
    /// Probability that the exit assigns to its best token.
    pub confidence: f64,
    /// Probability that the row's draft is accepted, including this token.
    pub draft: f64,
}

/// What a round did for the rows of one strategy.
pub(super) struct RoundSummary {
    /// Tokens that became final, per row; `None` if no row reached the full depth.
    pub certain: Option<f64>,
    /// Tokens drafted before the round, of the row with the most.
    pub drafted: usize,
    /// Whether tokens could exit early in the round.
    pub asked: bool,
    pub time: Duration,
    /// Time spent at exits whose tokens were then not drafted.
    pub asking: Duration,
}

pub(super) trait Strategy: Send + Sync {
    /// Whether tokens of early exits are drafts, which the full model verifies.
    fn verifies(&self) -> bool {
        false
    }

    fn needs_probability(&self) -> bool {
        false
    }

    /// Whether several rows share it.
    fn is_shared(&self) -> bool {
        false
    }

    /// Called when a request joins as `row`.
    fn row_joins(&mut self, _row: usize) {}

    /// Called instead of [`begin_round`](Self::begin_round) in a round that is not measured; tokens
    /// do not exit early in it.
    fn suspend(&mut self) {}

    /// Begins a round in which `open` rows of the decoder are open; `drafting` if a row of this
    /// strategy has drafts. Returns whether tokens may exit early in this round.
    fn begin_round(&mut self, open: usize, drafting: bool) -> bool;

    /// Whether tokens may exit at the exit of this index in this round.
    fn stops_at(&self, _index: usize) -> bool {
        true
    }

    /// Called when the next token starts.
    fn next_token(&mut self) {}

    fn decide(&mut self, at: Stop, signals: &ExitSignals) -> ExitDecision;

    /// Maximum length of a draft.
    fn draft_limit(&self) -> usize {
        0
    }

    /// Probability that a token drafted at this exit with this confidence is accepted.
    fn acceptance(&self, _index: usize, confidence: f64) -> f64 {
        confidence
    }

    /// Whether to verify now instead of drafting these tokens at the exit of this index.
    ///
    /// Must not depend on the tokens that are sampled: keeping a draft because it is probable would
    /// change the distribution that verification assumes.
    fn verifies_now(&mut self, _index: usize, _proposals: &[Proposal]) -> bool {
        false
    }

    /// Called when a draft of this confidence was verified.
    fn token_verified(&mut self, _confidence: f64, _accepted: bool) {}

    /// Called when the full model generated a token of `row`, with its best one and distribution.
    fn token_generated(&mut self, _row: usize, _best: u32, _from: Option<&Distribution>) {}

    /// Called when a draft was verified.
    fn draft_verified(&mut self, _drafted: usize, _accepted: usize) {}

    /// Called at the end of a round without prompts.
    fn end_round(&mut self, _round: &RoundSummary) {}

    fn into_tuner(self: Box<Self>) -> Option<Tuner> {
        None
    }
}
