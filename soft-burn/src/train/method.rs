//! Training methods and their options.
//!
//! A method has only the options it uses. Its form in files and flags is in `flat_settings`.

use serde::{Deserialize, Serialize};
use soft_core::loss::{
    AllExits, DepthWeights, ExitWeights, Gradual, IntermediateExits, LastExit, Rotational,
    SampledExits, SeparateExits,
};
use soft_core::{Exits, LossSchedule};

use crate::error::Error;
use crate::lora::Lora;
use crate::train::balance::Balance;
use crate::train::layer_dropout::LayerDropout;

/// The name of a method: the paper's three, and Balcony.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MethodName {
    /// Sorted fine-tuning.
    Soft,
    /// Standard fine-tuning.
    Sft,
    /// Early-Exit (ICT).
    Ict,
    /// Balcony.
    Balcony,
}

impl MethodName {
    /// All methods.
    pub const ALL: [Self; 4] = [Self::Soft, Self::Sft, Self::Ict, Self::Balcony];

    /// "soft", "sft", "ict" or "balcony".
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Soft => "soft",
            Self::Sft => "sft",
            Self::Ict => "ict",
            Self::Balcony => "balcony",
        }
    }
}

/// A training method and its options.
#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    /// Sorted fine-tuning: the model is trained at every exit.
    Soft(SoftOptions),
    /// Standard fine-tuning: the model is trained at full depth only.
    Sft(BodyOptions),
    /// Early-Exit (ICT): the model is frozen, one head per intermediate exit is trained.
    Ict(ExitOptions),
    /// Balcony: an additional block and norm per intermediate exit are trained.
    Balcony {
        /// Also train the model, at full depth only (SFT beside the exits). Otherwise it is frozen.
        train_body: bool,
        /// Options of the exits.
        exits: ExitOptions,
    },
}

/// Options of sorted fine-tuning.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SoftOptions {
    /// Weights of the exits. Default: equal.
    pub exit_weights: Option<Weights>,
    /// Which exits are trained at which step. Default: all at every step.
    pub curriculum: Option<Curriculum>,
    /// Number of exits trained per micro-batch, drawn by their weights. Default: all.
    pub sampled_exits: Option<SampledPerBatch>,
    /// Limits on how exits change weights shared with the full depth. Default: no limit.
    pub balance: Balance,
    /// Options of the intermediate exits.
    pub exits: ExitOptions,
    /// Options of the model.
    pub body: BodyOptions,
}

/// Options of intermediate exits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ExitOptions {
    /// Distillation from the full depth. Default: exits are trained on the targets only.
    pub distillation: Option<Distillation>,
}

/// Options for training the model itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BodyOptions {
    /// Which weights are trained.
    pub trained: TrainedWeights,
    /// Rows skip blocks, deeper ones more often. Default: no layer dropout.
    pub layer_dropout: Option<LayerDropout>,
}

/// Which weights of a model are trained.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum TrainedWeights {
    /// All of them.
    #[default]
    All,
    /// This many of the last blocks, the final norm and an untied head.
    LastBlocks(usize),
    /// Low-rank adapters; the weights are frozen.
    Lora(Lora),
}

/// Weights of the exits, which sum to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Weights {
    /// A formula of the depth.
    ByDepth(DepthWeights),
    /// One per exit, shallowest first, summing to 1.
    PerExit(Vec<f64>),
}

/// Which exits are trained at which step (soft-core's [`Rotational`] and [`Gradual`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Curriculum {
    /// Every n-th intermediate exit, in rotation.
    Rotational {
        /// n.
        every: u64,
    },
    /// Exits are added one by one, the deepest first.
    Gradual {
        /// Steps after which all are trained.
        steps: u64,
    },
}

/// Self-distillation: each intermediate exit is also trained on the full depth's distribution for
/// the same micro-batch. The full depth is trained on the targets only.
///
/// The loss of such an exit is (1 − share) · cross-entropy + share · T² · KL(full depth ‖ exit),
/// with the logits of both divided by the temperature T and no gradient into the full depth.
/// Source: Hinton et al. (arXiv 1503.02531).
///
/// Differs from the paper, which has no distillation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distillation {
    /// Share of the divergence in an exit's loss, above 0; at 1 the targets are not used.
    pub share: f64,
    /// Temperature, above 0. Default 1.
    #[serde(default = "one")]
    pub temperature: f64,
}

fn one() -> f64 {
    1.0
}

/// Number of exits trained per micro-batch, and the seed of the draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampledPerBatch {
    /// Exits drawn per micro-batch.
    pub draws: usize,
    /// Seed of the draws.
    pub seed: u64,
}

impl From<MethodName> for Method {
    fn from(name: MethodName) -> Self {
        match name {
            MethodName::Soft => Self::soft(),
            MethodName::Sft => Self::sft(),
            MethodName::Ict => Self::ict(),
            MethodName::Balcony => Self::balcony(),
        }
    }
}

impl Method {
    /// Sorted fine-tuning as in the paper.
    pub fn soft() -> Self {
        Self::Soft(SoftOptions::default())
    }

    /// Standard fine-tuning of all weights.
    pub fn sft() -> Self {
        Self::Sft(BodyOptions::default())
    }

    /// Early-Exit (ICT) as in the paper.
    pub fn ict() -> Self {
        Self::Ict(ExitOptions::default())
    }

    /// Balcony on a frozen model.
    pub fn balcony() -> Self {
        Self::Balcony {
            train_body: false,
            exits: ExitOptions::default(),
        }
    }

    /// The method without its options.
    pub fn name(&self) -> MethodName {
        match self {
            Self::Soft(_) => MethodName::Soft,
            Self::Sft(_) => MethodName::Sft,
            Self::Ict(_) => MethodName::Ict,
            Self::Balcony { .. } => MethodName::Balcony,
        }
    }

    /// Self-distillation of the intermediate exits, if any.
    pub fn distillation(&self) -> Option<Distillation> {
        match self {
            Self::Soft(SoftOptions { exits, .. })
            | Self::Ict(exits)
            | Self::Balcony { exits, .. } => exits.distillation,
            Self::Sft(_) => None,
        }
    }

    /// Options for training the model itself; `None` for ICT and Balcony.
    pub fn body(&self) -> Option<&BodyOptions> {
        match self {
            Self::Soft(SoftOptions { body, .. }) | Self::Sft(body) => Some(body),
            Self::Ict(_) | Self::Balcony { .. } => None,
        }
    }

    /// The adapters to train, if any.
    pub fn lora(&self) -> Option<&Lora> {
        match self.body().map(|body| &body.trained) {
            Some(TrainedWeights::Lora(lora)) => Some(lora),
            _ => None,
        }
    }

    pub(crate) fn trains_body_beside_exits(&self) -> bool {
        matches!(
            self,
            Self::Balcony {
                train_body: true,
                ..
            }
        )
    }

    pub(crate) fn balance(&self) -> Balance {
        match self {
            Self::Soft(soft) => soft.balance,
            _ => Balance::default(),
        }
    }

    /// The weights of the exits at every step.
    ///
    /// # Errors
    /// When weights, curriculum or samples do not fit the exits.
    pub fn loss_schedule(&self) -> Result<Box<dyn LossSchedule + Send>, Error> {
        match self {
            Self::Soft(soft) => soft.loss_schedule(),
            Self::Sft(_) => Ok(Box::new(LastExit)),
            Self::Balcony {
                train_body: true, ..
            } => Ok(Box::new(SeparateExits)),
            Self::Ict(_) | Self::Balcony { .. } => Ok(Box::new(IntermediateExits)),
        }
    }
}

impl SoftOptions {
    fn loss_schedule(&self) -> Result<Box<dyn LossSchedule + Send>, Error> {
        let weighed: Box<dyn LossSchedule + Send> = match &self.exit_weights {
            None => Box::new(AllExits),
            Some(Weights::ByDepth(weights)) => Box::new(*weights),
            Some(Weights::PerExit(weights)) => Box::new(ExitWeights::new(weights.as_slice())?),
        };
        let weighed = match self.curriculum {
            None => weighed,
            Some(Curriculum::Rotational { every }) => Box::new(Rotational::new(weighed, every)?),
            Some(Curriculum::Gradual { steps }) => Box::new(Gradual::new(weighed, steps)?),
        };
        Ok(match self.sampled_exits {
            None => weighed,
            Some(SampledPerBatch { draws, seed }) => {
                Box::new(SampledExits::new(weighed, draws, seed)?)
            }
        })
    }
}

pub(crate) fn intermediate(exits: &Exits) -> Vec<soft_core::Exit> {
    exits.iter().take(exits.len() - 1).collect()
}
