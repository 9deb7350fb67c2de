//! The cost of decoding and the origin of tokens.
//!
//! The counted cost, block and head applications per token, does not depend on machine and load.
//! The pass over the prompts generates the first token of each row and is counted separately.
//! Figures per token are over the tokens generated after it, including the stop token of an answer,
//! which costs as much as any other.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Counts and times of one decoder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Depth of the last exit of this run: the full model, or the sub-model of static mode.
    pub depth: usize,
    /// Tokens of the answers, by the depth of the exit that generated them.
    pub tokens_by_depth: BTreeMap<usize, u64>,
    /// Tokens and stop tokens generated after the pass over the prompts.
    #[serde(alias = "named")]
    pub generated: u64,
    /// Tokens drafted.
    pub drafted: u64,
    /// Drafted tokens that were verified, including the first rejected one of a draft.
    pub checked: u64,
    /// Drafted tokens that were accepted.
    pub accepted: u64,
    /// Blocks times states, without prompts.
    pub block_states: u64,
    /// Passes through a block, without prompts: loads of a block's weights.
    pub block_passes: u64,
    /// States whose keys and values were appended to the block of an exit without running it,
    /// without prompts.
    #[serde(default)]
    pub appended_states: u64,
    /// Positions that states attended to in blocks, including themselves, without prompts.
    pub attended: u64,
    /// States to which a full head was applied, without prompts.
    pub head_states: u64,
    /// Passes through a full head, without prompts.
    pub head_passes: u64,
    /// States to which a draft head was applied.
    pub draft_head_states: u64,
    /// Prompts processed.
    pub prompts: u64,
    /// Tokens of the prompts.
    pub prompt_tokens: u64,
    /// Wall time of the pass over the prompts, and of making draft heads.
    pub prefill: Duration,
    /// Wall time of rounds in which no token reached the full depth.
    pub draft: Duration,
    /// Wall time of the other rounds: plain steps, and verification of drafts.
    pub full: Duration,
}

impl Statistics {
    /// Tokens of all answers.
    pub fn tokens(&self) -> u64 {
        self.tokens_by_depth.values().sum()
    }

    /// Mean depth of the exits that generated or drafted the tokens. NaN without tokens.
    pub fn mean_depth(&self) -> f64 {
        let depths = self.tokens_by_depth.iter();
        let sum: u64 = depths.map(|(&depth, &tokens)| depth as u64 * tokens).sum();
        sum as f64 / self.tokens() as f64
    }

    /// Accepted share of the drafted tokens that were verified; NaN without any.
    pub fn acceptance_rate(&self) -> f64 {
        self.accepted as f64 / self.checked as f64
    }

    /// The denominator of figures per token: [`generated`](Self::generated), but at least 1.
    pub fn later_tokens(&self) -> u64 {
        self.generated.max(1)
    }

    /// Block applications per token, including blocks of exits: the counted cost.
    pub fn blocks_per_token(&self) -> f64 {
        self.block_states as f64 / self.later_tokens() as f64
    }

    /// Loads of block weights per token: the cost when memory bandwidth is the limit.
    pub fn weight_loads_per_token(&self) -> f64 {
        self.block_passes as f64 / self.later_tokens() as f64
    }

    /// Full-head applications per token.
    pub fn heads_per_token(&self) -> f64 {
        self.head_states as f64 / self.later_tokens() as f64
    }

    /// Draft-head applications per token.
    pub fn draft_heads_per_token(&self) -> f64 {
        self.draft_head_states as f64 / self.later_tokens() as f64
    }

    /// Wall time per token, without prompts.
    pub fn time_per_token(&self) -> Duration {
        let seconds = (self.draft + self.full).as_secs_f64();
        Duration::from_secs_f64(seconds / self.later_tokens() as f64)
    }

    /// Total wall time.
    pub fn total(&self) -> Duration {
        self.prefill + self.draft + self.full
    }

    /// Adds the counts of another decoder.
    pub fn add(&mut self, other: &Self) {
        self.depth = self.depth.max(other.depth);
        for (&depth, &tokens) in &other.tokens_by_depth {
            *self.tokens_by_depth.entry(depth).or_default() += tokens;
        }
        self.generated += other.generated;
        self.drafted += other.drafted;
        self.checked += other.checked;
        self.accepted += other.accepted;
        self.block_states += other.block_states;
        self.block_passes += other.block_passes;
        self.appended_states += other.appended_states;
        self.attended += other.attended;
        self.head_states += other.head_states;
        self.head_passes += other.head_passes;
        self.draft_head_states += other.draft_head_states;
        self.prompts += other.prompts;
        self.prompt_tokens += other.prompt_tokens;
        self.prefill += other.prefill;
        self.draft += other.draft;
        self.full += other.full;
    }
}
