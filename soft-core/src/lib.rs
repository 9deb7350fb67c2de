//! Sorted fine-tuning (SoFT) of large language models, without tensors.
//!
//! A decoder-only model is fine-tuned once with the *sorted loss*, the mean of the losses of
//! several of its depths. Its first n blocks can then be used as models of their own (Kavehzadeh et
//! al., *Sorted LLaMA*, arXiv 2309.08968). This crate has the parts of the method that need no
//! tensor library:
//!
//! | what | where |
//! | what | where |
//! | depths of the sub-models | [`Exit`], [`Exits`] |
//! | training rows | [`Example`], [`Batch`], [`BatchStream`] |
//! | what a model offers: [`NestedModel`], [`TrainModel`], [`BatchModel`], [`DecodeModel`], [`KvCache`] | [`model`] |
//! | the loss, [`sorted_loss`], and the weights of its exits, [`LossSchedule`] | [`loss`] |
//! | decoding at any depth: [`Decoder`], [`DecodeSettings`], [`Mode`] | [`decode`] |
//! | when a token exits early: [`ExitPolicy`], [`Thresholds`] | [`policy`] |
//! | how the next token is chosen: [`Sampling`], and exact speculative sampling | [`sampling`] |
//! | reproducible random numbers | [`random`] |
//! | laws of every backend, a toy model | modules `conformance` and `toy`, feature `conformance` |
//!
//! The crate `soft-burn` implements the traits for LLaMA on Burn.
//!
//! ```
//! use soft_core::{Exits, LossSchedule, MicroBatch};
//! use soft_core::loss::AllExits;
//!
//! // The eight sub-models of the paper's 40-layer LLaMA 2 13B, with equal weights.
//! let exits = Exits::every(4, 12..=40)?;
//! assert_eq!(AllExits.weights(&exits, MicroBatch::of_step(1)), [0.125; 8]);
//! # Ok::<(), soft_core::ExitError>(())
//! ```

mod batch;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod decode;
mod exit;
pub mod loss;
pub mod model;
pub mod policy;
pub mod random;
pub mod sampling;
#[cfg(any(test, feature = "conformance"))]
pub mod toy;

pub use batch::{Batch, BatchError, BatchStream, Example, StreamPosition, Target};
pub use decode::{DecodeSettings, Decoder, Mode, Prompt};
pub use exit::{Exit, ExitError, Exits};
pub use loss::{LossSchedule, MicroBatch, sorted_loss};
pub use model::{BatchModel, DecodeModel, KvCache, NestedModel, Past, TrainModel};
pub use policy::{ExitPolicy, Thresholds};
pub use sampling::Sampling;

/// The README's examples, run as doctests.
#[cfg(all(doctest, feature = "conformance"))]
#[doc = include_str!("../README.md")]
pub struct Readme;
