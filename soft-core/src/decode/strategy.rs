//! The decisions of a decoding mode; the engine computes.
//!
//! A strategy sees rows, exits, signals and probabilities, never a tensor. The engine calls it at
//! fixed points of a round; it calls the exit policies of its rows. Knows neither model nor cache.

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

/// A token that would be drafted at an exit.
pub(super) struct Proposal<'a> {
    pub row: usize,
    /// The exit's best token.
    pub best: u32,
    /// What the token is sampled from; none for greedy decoding without a penalty.
    pub from: Option<&'a Distribution>,
    /// Probability that the exit gives to its best token.
    pub confidence: f64,
    /// Probability that the row's draft is accepted with this token added.
    pub draft: f64,
}

/// Time and results of a finished round.
pub(super) struct RoundSummary {
    /// Tokens that the full model made certain, per row; none if no row reached the full depth.
    pub certain: Option<f64>,
    /// Tokens drafted before the round, of the row with most.
    pub drafted: usize,
    /// Whether tokens could exit early in it.
    pub asked: bool,
    pub time: Duration,
    /// Time spent at exits whose tokens were then not drafted.
    pub asking: Duration,
}

/// The decisions of a decoding mode.
pub(super) trait Strategy: Send + Sync {
    /// Whether tokens of early exits are drafts, which the full model verifies.
    fn verifies(&self) -> bool {
        false
    }

    /// Whether the probability of drafted tokens is needed.
    fn needs_probability(&self) -> bool {
        false
    }

    /// Begins a round of `open` rows, after the prompts' pass; `drafting` when a row has drafts.
    /// Returns whether tokens may exit early in it.
    fn begin_round(&mut self, open: usize, drafting: bool) -> bool;

    /// Whether tokens may exit at the exit of this index in this round.
    fn stops_at(&self, _index: usize) -> bool {
        true
    }

    /// The next token of `row` starts.
    fn next_token(&mut self, _row: usize) {}

    /// Decides about the newest token of `row` at an early exit.
    fn decide(&mut self, row: usize, at: Stop, signals: &ExitSignals) -> ExitDecision;

    /// Most tokens of the draft of `row`.
    fn draft_limit(&self, _row: usize) -> usize {
        0
    }

    /// Probability that a token drafted at this exit with this confidence is accepted.
    fn acceptance(&self, _index: usize, confidence: f64) -> f64 {
        confidence
    }

    /// Whether to verify now instead of drafting these tokens at the exit of this index.
    ///
    /// Must not depend on the tokens that are sampled: a draft kept for being probable would no
    /// longer be distributed as verification assumes.
    fn verifies_now(&mut self, _index: usize, _proposals: &[Proposal]) -> bool {
        false
    }

    /// A draft of this confidence was verified.
    fn token_verified(&mut self, _confidence: f64, _accepted: bool) {}

    /// The full model generated the next token of `row`; `best` is its best one, `from` what it
    /// samples from.
    fn token_generated(&mut self, _row: usize, _best: u32, _from: Option<&Distribution>) {}

    /// The draft of `row` was verified.
    fn draft_verified(&mut self, _row: usize, _drafted: usize, _accepted: usize) {}

    /// A round after the prompts' pass is over.
    fn end_round(&mut self, _round: &RoundSummary) {}

    /// What automatic mode has learned.
    fn into_tuner(self: Box<Self>) -> Option<Tuner> {
        None
    }
}
