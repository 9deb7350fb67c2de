//! Training settings: method, exits, steps, learning rate, optimizer.
//!
//! Plain values. Defaults are those of Sorted LLaMA, section 4.

use serde::{Deserialize, Serialize};
use soft_core::Exits;

use crate::dtype::DType;
use crate::train::method::Method;
use crate::train::optimizer::AdamWSettings;
use crate::train::schedule::{Decay, Schedule};

/// Training settings; on disk as [`FlatSettings`](crate::FlatSettings).
#[derive(Clone, Debug, PartialEq)]
pub struct TrainSettings {
    /// Training method with its options.
    pub method: Method,
    /// Exits to train and to validate; the last is the full model.
    pub exits: Exits,
    /// Total number of optimizer steps.
    pub steps: u64,
    /// Micro-batches per optimizer step. Default 1.
    pub accumulation: usize,
    /// Learning rate schedule.
    pub schedule: Schedule,
    /// The optimizer.
    pub optimizer: AdamWSettings,
    /// How the loss is differentiated. Default memory-flat.
    pub objective: Objective,
    /// Number type of the weights in training. Losses and the optimizer's state, including a copy
    /// of the weights, are f32. Default f32.
    pub dtype: DType,
    /// Gradient checkpointing: only the inputs of the blocks are kept, and each block is recomputed
    /// in the backward pass. Requires the memory-flat objective. Default off.
    pub gradient_checkpointing: bool,
    /// Name of a custom loss schedule, which replaces the method's and must be passed to
    /// [`Trainer::with_loss_schedule`](crate::Trainer::with_loss_schedule). Default: none.
    pub loss_schedule: Option<String>,
}

/// How the sorted loss is differentiated. Both variants agree up to rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// Memory-flat: the head is differentiated separately, in chunks.
    #[default]
    Flat,
    /// A single graph over all exits, for comparison. Does not support distillation, balance, layer
    /// dropout or a body trained beside its exits.
    Plain,
}

impl TrainSettings {
    /// The paper's learning rate, 2e-5 with a cosine, and defaults for everything else.
    pub fn new(method: impl Into<Method>, exits: Exits, steps: u64) -> Self {
        Self {
            method: method.into(),
            exits,
            steps,
            accumulation: 1,
            schedule: Schedule {
                peak: 2e-5,
                warmup_steps: 0,
                decay: Decay::Cosine,
            },
            optimizer: AdamWSettings::default(),
            objective: Objective::default(),
            dtype: DType::default(),
            gradient_checkpointing: false,
            loss_schedule: None,
        }
    }
}
