//! Sorted fine-tuning (SoFT) of large language models, without tensors.
//!
//! Fine-tune a decoder-only model once with the *sorted loss*, the mean of the losses of several of its
//! depths, and its first n blocks are models of their own (Kavehzadeh et al., *Sorted
//! LLaMA*, arXiv 2309.08968). This crate holds what the method is made of and no tensor library:
//!
//! | what | where |
//! | --- | --- |
//! | depths at which to cut | [`Exit`], [`Exits`] |
//! | what a model must offer | [`NestedModel`], [`ExitHead`], [`KvCache`], [`TrainModel`], [`BatchModel`] |
//! | the loss | [`sorted_loss`], [`LossSchedule`] |
//! | how exits count in it | [`AllExits`], [`LastExit`], [`ExitWeights`], [`DepthWeights`], [`SampledExits`], [`Rotational`], [`Gradual`], [`Ramp`] |
//! | decoding at any depth | [`Decoder`], [`DecodeSettings`], [`Mode`], [`DecodeModel`] |
//! | when a token leaves early | [`ExitPolicy`] and its implementations, [`ExitRule`], [`Thresholds`], [`CalibratedExits`] |
//! | how the next token is chosen | [`Sampling`], [`Distribution`], [`RowRng`] |
//! | exact speculative sampling | [`verify_draft`], [`Verification`] |
//! | rows to learn from | [`Example`], [`Batch`], [`BatchStream`] |
//! | laws every backend obeys, a toy model | modules `conformance` and `toy`, feature `conformance` |
//!
//! The crate `soft-burn` implements the traits for LLaMA on Burn.
//!
//! ```
//! use soft_core::{AllExits, Exits, MicroBatch, LossSchedule};
//!
//! // The eight sub-models of the paper's 40-layer LLaMA 2 13B, all counting the same.
//! let exits = Exits::every(4, 12..=40)?;
//! assert_eq!(AllExits.weights(&exits, MicroBatch::of_step(1)), [0.125; 8]);
//! # Ok::<(), soft_core::ExitError>(())
//! ```

mod acceptance;
mod batch;
mod cache_lengths;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod curriculum;
mod decode;
mod depth_weights;
mod distribution;
mod error;
mod exit;
mod loss_schedules;
mod nested;
mod row_rng;
mod sampling;
mod sorted;
#[cfg(any(test, feature = "conformance"))]
pub mod toy;

pub use acceptance::{Verification, verify_draft};
pub use batch::{Batch, BatchStream, Example, StreamPosition, Target};
pub use cache_lengths::{CacheError, CacheLengths};
pub use curriculum::{Gradual, Ramp, Rotational};
pub use decode::{
    Always, Both, CalibratedExits, Confidence, Criterion, DecodeError, DecodeModel, DecodeSettings,
    Decoder, DraftLength, DynamicExits, Either, Entropy, ExitDecision, ExitPolicy, ExitRule,
    ExitSignals, Finish, Head, Margin, Mode, OperationCosts, Patience, Prompt, Saturation, Score,
    SettingsError, Signal, Speculation, Statistics, Step, Thresholds, Tuner,
};
pub use depth_weights::DepthWeights;
pub use distribution::Distribution;
pub use error::{BatchError, ExitError, PolicyError, SamplingError};
pub use exit::{Exit, Exits};
pub use loss_schedules::{AllExits, ExitWeights, IntermediateExits, LastExit, SampledExits};
pub use nested::{
    BatchModel, ExitHead, KvCache, NestedModel, NoCache, Past, ScoreSum, TargetScore, TrainModel,
};
pub use row_rng::RowRng;
pub use sampling::Sampling;
pub use sorted::{LossSchedule, MicroBatch, SortedLossOutput, sorted_loss};

/// The README's examples, so that they stay true.
#[cfg(all(doctest, feature = "conformance"))]
#[doc = include_str!("../README.md")]
pub struct Readme;
