//! Decoder settings, which are checked before anything is computed.

use thiserror::Error;

use crate::decode::draft::DraftLength;
use crate::decode::logprobs::Logprobs;
use crate::decode::tuner::Tuner;
use crate::exit::ExitError;
use crate::exit::{Exit, Exits};
use crate::policy::calibrated::ExitHead;
use crate::policy::error::PolicyError;
use crate::policy::exit_policy::{Always, ExitPolicy};
use crate::policy::probe::ExitProbes;
use crate::sampling::sampler::Sampling;
use crate::sampling::sampler::SamplingError;

/// A text to continue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Its tokens, at least one.
    pub tokens: Vec<u32>,
    /// Seed of this row's sampler. A row's answer depends on its seed and not on the other rows,
    /// except for sampled answers in automatic mode: their draws depend on measured times, but not
    /// their distribution.
    pub seed: u64,
}

impl From<Vec<u32>> for Prompt {
    fn from(tokens: Vec<u32>) -> Self {
        Self { tokens, seed: 0 }
    }
}

/// How the depth of each token is chosen.
#[derive(Clone, Debug)]
pub enum Mode {
    /// The sub-model of one depth, for every token.
    Static(Exit),
    /// Each token exits at the first exit that satisfies the policy.
    Dynamic(DynamicExits),
    /// Drafts at early exits, verified by the full model: the full model's text at lower cost.
    Speculative(Speculation),
    /// Speculation with exit and length chosen from measurements, or plain decoding if faster.
    Auto(Tuner),
}

/// Dynamic exits: Sorted LLaMA, section 4.4. The state of a token that exits early is deferred at
/// its exit. It runs through the deeper blocks together with the next token that does, so that the
/// cache is exact.
#[derive(Clone, Debug)]
pub struct DynamicExits {
    /// The exits; the last is the full model.
    pub exits: Exits,
    /// Decides when tokens exit.
    pub policy: Box<dyn ExitPolicy>,
    /// The head that decides about, and names, the token of an early exit. A draft head is that of
    /// [`DecodeSettings::draft_tokens`].
    pub head: ExitHead,
}

impl DynamicExits {
    /// Dynamic exits with full heads.
    pub fn new(exits: Exits, policy: Box<dyn ExitPolicy>) -> Self {
        Self {
            exits,
            policy,
            head: ExitHead::Full,
        }
    }
}

/// Self-speculation: one model drafts at its early exits and verifies with the remaining blocks.
#[derive(Clone, Debug)]
pub struct Speculation {
    /// The exits for drafts; the last exit is the full model.
    pub exits: Exits,
    /// Decides where drafts exit. A token at full depth verifies the drafts before it.
    pub policy: Box<dyn ExitPolicy>,
    /// The length of drafts.
    pub length: DraftLength,
}

impl Speculation {
    /// Drafts at a single exit, for a model of `depth` blocks.
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

/// Settings of a decoder.
#[derive(Clone, Debug)]
pub struct DecodeSettings {
    /// How the depth of each token is chosen.
    pub mode: Mode,
    /// How a token is chosen.
    pub sampling: Sampling,
    /// Maximum number of tokens of an answer.
    pub max_new_tokens: usize,
    /// Stop tokens, which end an answer and are not part of it.
    pub stop_tokens: Vec<u32>,
    /// Tokens that may be drafted, such as the most frequent ones. Default: all. A restricted head
    /// drafts faster. The text is the same, since the full head verifies. Dynamic exits use them
    /// with [`ExitHead::Draft`] only.
    pub draft_tokens: Option<Vec<u32>>,
    /// The probes of the early exits, for policies that ask for
    /// [`Signal::Probe`](crate::policy::Signal::Probe). Default: none.
    pub probes: Option<ExitProbes>,
    /// Which log-probabilities are kept. Default: none.
    pub logprobs: Option<Logprobs>,
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
            probes: None,
            logprobs: None,
        }
    }

    /// Sets the stop tokens.
    pub fn stop_at(mut self, tokens: &[u32]) -> Self {
        self.stop_tokens = tokens.to_vec();
        self
    }

    /// The tokens of the draft heads, none where the mode uses full heads.
    pub(crate) fn draft_tokens_in_use(&self) -> Option<Vec<u32>> {
        let mut tokens = match &self.mode {
            Mode::Static(_) => None,
            Mode::Dynamic(dynamic) => match dynamic.head {
                ExitHead::Full => None,
                ExitHead::Draft => Some(self.draft_tokens.clone().unwrap_or_default()),
            },
            Mode::Speculative(_) | Mode::Auto(_) => self.draft_tokens.clone(),
        }?;
        tokens.sort_unstable();
        tokens.dedup();
        Some(tokens)
    }

    /// The exits of the mode.
    pub(crate) fn exits(&self) -> Result<Exits, ExitError> {
        Ok(match &self.mode {
            Mode::Static(exit) => Exits::new([exit.depth()])?,
            Mode::Dynamic(dynamic) => dynamic.exits.clone(),
            Mode::Speculative(speculation) => speculation.exits.clone(),
            Mode::Auto(tuner) => tuner.exits().clone(),
        })
    }

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

/// Settings that do not fit the model.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// Exits that the model does not have.
    #[error(transparent)]
    Exits(#[from] ExitError),
    /// A policy with settings out of range.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A sampler with settings out of range, or logits it cannot use.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
}

/// An error of a decoder.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DecodeError<E: std::error::Error> {
    /// A prompt without tokens.
    #[error("prompt {row} has no tokens: expected at least one")]
    EmptyPrompt {
        /// Index of the prompt.
        row: usize,
    },
    /// A prompt longer than the model's context.
    #[error("prompt {row} has {tokens} tokens: the model's context holds {context}")]
    PromptTooLong {
        /// Index of the prompt.
        row: usize,
        /// Its length.
        tokens: usize,
        /// The model's context.
        context: usize,
    },
    /// Settings that do not fit the model.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// An exit that the decoder was not created with.
    #[error("exits {found}: the decoder has {expected}")]
    OtherExits {
        /// The exits of the request.
        found: Exits,
        /// The decoder's exits.
        expected: Exits,
    },
    /// Draft tokens that the decoder was not created with.
    #[error("{found} draft tokens: the decoder has others, {expected}")]
    OtherDraftTokens {
        /// Number of the request's.
        found: usize,
        /// Number of the decoder's.
        expected: usize,
    },
    /// No row is free.
    #[error("all {rows} rows are taken")]
    NoFreeRow {
        /// Number of rows.
        rows: usize,
    },
    /// A draft head without draft tokens.
    #[error("no draft tokens for a draft head: expected at least one token")]
    NoDraftTokens,
    /// An error of the model.
    #[error(transparent)]
    Model(E),
}
