//! What a training run is told: method, exits, steps, rate, optimiser.
//!
//! Plain values; nothing here computes. Defaults are those of Sorted LLaMA, section 4.

use serde::{Deserialize, Serialize};
use soft_core::loss::{
    AllExits, DepthWeights, ExitWeights, Gradual, IntermediateExits, LastExit, Ramp, Rotational,
    SampledExits,
};
use soft_core::{Exits, LossSchedule};

use crate::dtype::DType;
use crate::error::Error;
use crate::lora::Lora;
use crate::train::balance::{Balance, SharedHead};
use crate::train::layer_dropout::LayerDropout;
use crate::train::optimizer::AdamWSettings;
use crate::train::schedule::{Decay, Schedule};

/// A training method: the paper's three, and Balcony.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Sorted fine-tuning: every exit counts the same, all weights are trained.
    Soft,
    /// Standard fine-tuning: the full model alone counts.
    Sft,
    /// Early-Exit (ICT): blocks frozen, one head per intermediate exit is trained.
    Ict,
    /// Balcony: the model frozen, one more block and a norm per intermediate exit are trained.
    Balcony,
}

impl Method {
    /// How this method weighs the exits.
    pub fn loss_schedule(self) -> Box<dyn LossSchedule + Send> {
        match self {
            Self::Soft => Box::new(AllExits),
            Self::Sft => Box::new(LastExit),
            Self::Ict | Self::Balcony => Box::new(IntermediateExits),
        }
    }

    /// Every method.
    pub const ALL: [Self; 4] = [Self::Soft, Self::Sft, Self::Ict, Self::Balcony];

    /// Its name: "soft", "sft", "ict" or "balcony".
    pub fn name(self) -> &'static str {
        match self {
            Self::Soft => "soft",
            Self::Sft => "sft",
            Self::Ict => "ict",
            Self::Balcony => "balcony",
        }
    }
}

/// Settings of a training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSettings {
    /// Training method.
    pub method: Method,
    /// Exits to train and to validate; the last is the full model.
    pub exits: Exits,
    /// Optimiser steps in all.
    pub steps: u64,
    /// Micro-batches per optimiser step. Default 1.
    pub accumulation: usize,
    /// Learning rate over the steps.
    pub schedule: Schedule,
    /// The optimiser.
    pub optimizer: AdamWSettings,
    /// How the loss is differentiated. Default memory-flat.
    #[serde(default)]
    pub objective: Objective,
    /// Train this many of the last blocks, the final norm and an untied head only; all below stays as it is. Default: everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_blocks: Option<usize>,
    /// Balcony: train the model itself too, by its full depth alone, which is SFT beside the exits. Default: it is frozen.
    #[serde(default, skip_serializing_if = "is_default")]
    pub train_body: bool,
    /// Train low-rank adapters instead of the weights. Default: the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
    /// Rows skip blocks, the deeper the more often. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_dropout: Option<LayerDropout>,
    /// Number type of the weights in training; losses and the optimiser's state, with a copy of the weights, are f32. Default f32.
    #[serde(default, skip_serializing_if = "is_default")]
    pub weights: DType,
    /// Burn's gradient checkpointing: cheap operations are computed again in the backward pass instead of being kept. Default off.
    #[serde(default, skip_serializing_if = "is_default")]
    pub gradient_checkpointing: bool,
    /// How SoFT weighs the exits, instead of all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_weights: Option<Weights>,
    /// Which exits of SoFT count at which step, instead of all at every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub curriculum: Option<Curriculum>,
    /// SoFT trains this many exits per micro-batch, drawn by their weights, instead of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampled_exits: Option<SampledPerBatch>,
    /// Intermediate exits learn from the full depth, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation: Option<Distillation>,
    /// How much the intermediate exits may move of what they share with the full depth. Default: whatever they ask for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub balance: Balance,
}
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// How the sorted loss is differentiated; both ways agree to rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// Memory-flat: the head's part by itself, in chunks.
    #[default]
    Flat,
    /// One graph over all exits: for comparison, and to read.
    Plain,
}

/// Weights of the exits, which sum to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Weights {
    /// By depth, from a formula.
    ByDepth(DepthWeights),
    /// One per exit, shallowest first, summing to 1.
    PerExit(Vec<f64>),
}

/// Which exits count at which step (soft-core's [`Rotational`], [`Gradual`] and [`Ramp`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Curriculum {
    /// Each n-th intermediate exit, in turns.
    Rotational {
        /// n.
        every: u64,
    },
    /// Exits join one by one, the deepest first.
    Gradual {
        /// Steps after which all count.
        steps: u64,
    },
    /// The weights of all intermediate exits grow from 0.
    Ramp {
        /// Steps after which they count in full.
        steps: u64,
    },
}

/// Self-distillation: each intermediate exit learns what the full depth of the same micro-batch says, which itself learns from
/// the targets alone.
///
/// The loss of such an exit is (1 − share) · cross-entropy + share · T² · KL(full depth ‖ exit), with both sides' logits divided by
/// the temperature T and no gradient into the full depth. Source: Hinton et al. (arXiv 1503.02531).
///
/// Differs from the paper, which has none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distillation {
    /// Share of the divergence in an exit's loss, above 0; at 1 intermediate exits see no target.
    pub share: f64,
    /// Temperature, above 0. Default 1.
    #[serde(default = "one")]
    pub temperature: f64,
}

fn one() -> f64 {
    1.0
}

/// How many exits a micro-batch trains, and the seed they are drawn with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampledPerBatch {
    /// Exits drawn per micro-batch.
    pub draws: usize,
    /// Seed of the draws.
    pub seed: u64,
}

impl TrainSettings {
    /// The paper's rate, 2e-5 with a cosine; everything else at its default.
    pub fn new(method: Method, exits: Exits, steps: u64) -> Self {
        Self {
            method,
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
            last_blocks: None,
            train_body: false,
            lora: None,
            layer_dropout: None,
            weights: DType::default(),
            gradient_checkpointing: false,
            exit_weights: None,
            curriculum: None,
            sampled_exits: None,
            distillation: None,
            balance: Balance::default(),
        }
    }

    /// How the exits are weighed: as the method says, or as these settings say instead.
    ///
    /// # Errors
    /// When weights, curriculum or samples do not go with the method or the exits.
    pub fn loss_schedule(&self) -> Result<Box<dyn LossSchedule + Send>, Error> {
        self.check_options()?;
        let weighed: Box<dyn LossSchedule + Send> = match &self.exit_weights {
            None if self.train_body => Box::new(AllExits),
            None => self.method.loss_schedule(),
            Some(Weights::ByDepth(weights)) => Box::new(*weights),
            Some(Weights::PerExit(weights)) => Box::new(ExitWeights::new(weights.as_slice())?),
        };
        let weighed = match self.curriculum {
            None => weighed,
            Some(Curriculum::Rotational { every }) => Box::new(Rotational::new(weighed, every)?),
            Some(Curriculum::Gradual { steps }) => Box::new(Gradual::new(weighed, steps)?),
            Some(Curriculum::Ramp { steps }) => Box::new(Ramp::new(weighed, steps)?),
        };
        Ok(match self.sampled_exits {
            None => weighed,
            Some(SampledPerBatch { draws, seed }) => {
                Box::new(SampledExits::new(weighed, draws, seed)?)
            }
        })
    }

    /// How much the exits may move at `step`: beside a body in training, exits with blocks of their own leave the head to the full depth.
    pub(crate) fn balance_at(&self, step: u64) -> Balance {
        match self.train_body {
            false => self.balance.at(step),
            true => Balance {
                shared_head: SharedHead::FullDepth,
                ..Balance::default()
            },
        }
    }
}
