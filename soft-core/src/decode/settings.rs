//! What a decoder is asked to do, checked before anything is computed.

use thiserror::Error;

use crate::decode::draft::DraftLength;
use crate::decode::tuner::Tuner;
use crate::exit::ExitError;
use crate::exit::{Exit, Exits};
use crate::policy::error::PolicyError;
use crate::policy::exit_policy::{Always, ExitPolicy};
use crate::sampling::sampler::Sampling;
use crate::sampling::sampler::SamplingError;

/// A text to go on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Its tokens, at least one.
    pub tokens: Vec<u32>,
    /// Seed of this row's sampler. In static and dynamic modes a row's answer depends on its seed and not on its
    /// company; sampled speculation draws more or fewer numbers as the rows of a batch check together, so that
    /// only its distribution is that of the row alone; in automatic mode it depends on measured times as well.
    pub seed: u64,
}

impl From<Vec<u32>> for Prompt {
    fn from(tokens: Vec<u32>) -> Self {
        Self { tokens, seed: 0 }
    }
}

/// Which depth names a token.
#[derive(Debug)]
pub enum Mode {
    /// The sub-model of one depth, for every token.
    Static(Exit),
    /// Each token leaves at the first exit that satisfies the policy.
    Dynamic(DynamicExits),
    /// Drafts at early exits, checked by the full model: the text of the full model, for less.
    Speculative(Speculation),
    /// Speculation that finds the draft exit and length by itself and does without where it does not pay.
    Auto(Tuner),
}

/// Dynamic exits: Sorted LLaMA, section 4.4. The state of a token that exited early waits there and runs through the deeper blocks with
/// the next token that does, so that the cache is exact.
#[derive(Debug)]
pub struct DynamicExits {
    /// Where tokens may leave; the last is the full model.
    pub exits: Exits,
    /// When they leave.
    pub policy: Box<dyn ExitPolicy>,
}

/// Self-speculation: one model drafts at its early exits and checks with the blocks that remain.
#[derive(Debug)]
pub struct Speculation {
    /// Where drafts may leave; the last exit is the full model.
    pub exits: Exits,
    /// Where each draft leaves. A token that no exit keeps runs to the full depth and checks those before it.
    pub policy: Box<dyn ExitPolicy>,
    /// How many tokens are drafted.
    pub length: DraftLength,
}

impl Speculation {
    /// Drafts at one exit for a model of `depth` blocks.
    ///
    /// # Errors
    /// When `draft` is not below `depth`.
    pub fn at(draft: Exit, depth: usize, length: DraftLength) -> Result<Self, ExitError> {
        Ok(Self {
            exits: Exits::new([draft.depth(), depth])?,
            policy: Box::new(Always),
            length,
        })
    }
}

/// Everything a decoder is asked to do.
#[derive(Debug)]
pub struct DecodeSettings {
    /// Which depth names a token.
    pub mode: Mode,
    /// How a token is chosen.
    pub sampling: Sampling,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// Tokens that end an answer; they do not belong to it.
    pub stop_tokens: Vec<u32>,
    /// The tokens that drafts are made of, such as the most frequent ones; all when none are
    /// given. A smaller head drafts faster and loses nothing, since the full head checks.
    pub draft_tokens: Option<Vec<u32>>,
}

impl DecodeSettings {
    /// Greedy answers of at most `max_new_tokens` tokens.
    pub fn greedy(mode: Mode, max_new_tokens: usize) -> Self {
        Self {
            mode,
            sampling: Sampling::greedy(),
            max_new_tokens,
            stop_tokens: Vec::new(),
            draft_tokens: None,
        }
    }

    /// The same, ending at any of these tokens.
    pub fn stop_at(mut self, tokens: &[u32]) -> Self {
        self.stop_tokens = tokens.to_vec();
        self
    }

    /// Refuses what a model of `depth` blocks cannot do.
    pub(crate) fn check(&self, depth: usize) -> Result<(), SettingsError> {
        self.sampling.validate()?;
        match &self.mode {
            Mode::Static(exit) => {
                Exits::new([exit.depth()])?.check_within(depth)?;
            }
            Mode::Dynamic(dynamic) => {
                dynamic.exits.clone().for_depth(depth)?;
                dynamic.policy.check(&dynamic.exits)?;
            }
            Mode::Speculative(speculation) => {
                speculation.exits.clone().for_depth(depth)?;
                speculation.policy.check(&speculation.exits)?;
                speculation.length.validate()?;
            }
            Mode::Auto(tuner) => {
                tuner.exits().clone().for_depth(depth)?;
            }
        }
        Ok(())
    }
}

/// Settings that a model cannot follow.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// Exits that the model does not have.
    #[error(transparent)]
    Exits(#[from] ExitError),
    /// A policy that makes no sense.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A sampler that makes no sense, or logits it cannot use.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
}

/// Why there is no answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DecodeError<E: std::error::Error> {
    /// Nothing to go on from.
    #[error("prompt {row} has no tokens: expected at least one")]
    EmptyPrompt {
        /// Index of the prompt.
        row: usize,
    },
    /// More than the model can read.
    #[error("prompt {row} has {tokens} tokens: the model's context holds {context}")]
    PromptTooLong {
        /// Index of the prompt.
        row: usize,
        /// Its length.
        tokens: usize,
        /// Most tokens the model can read.
        context: usize,
    },
    /// Settings that the model cannot follow.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A list of draft tokens without any.
    #[error("the list of draft tokens is empty: expected at least one token, or no list")]
    NoDraftTokens,
    /// The model failed.
    #[error(transparent)]
    Model(E),
}
