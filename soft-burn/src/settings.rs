//! What a training run is told: method, exits, steps, rate, optimiser.
//!
//! Plain values; nothing here computes. Defaults are those of Sorted LLaMA, section 4.

use serde::{Deserialize, Serialize};
use soft_core::{
    AllExits, DepthWeights, ExitWeights, Exits, Gradual, IntermediateExits, LastExit, Ramp,
    Rotational, SampledExits, SortedLoss,
};

use crate::balance::{Balance, SharedHead};
use crate::layer_dropout::LayerDropout;
use crate::lora::Lora;
use crate::objective::Objective;
use crate::optimizer::AdamWSettings;
use crate::schedule::{Decay, Schedule};
use crate::weights::WeightType;
use crate::{Error, LlamaConfig};

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
    pub fn sorted_loss(self) -> Box<dyn SortedLoss + Send> {
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
    pub weights: WeightType,
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

/// Refuses more last blocks than there are, and none.
pub(crate) fn check_last_blocks(count: usize, depth: usize) -> Result<(), Error> {
    match (1..=depth).contains(&count) {
        true => Ok(()),
        false => refuse(
            "last blocks to train",
            format!("{count} of {depth}"),
            "1 to the number of blocks",
        ),
    }
}

fn refuse<T>(key: &'static str, found: String, expected: &'static str) -> Result<T, Error> {
    Err(Error::Setting {
        key,
        found,
        expected,
    })
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
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
            weights: WeightType::default(),
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
    pub fn sorted_loss(&self) -> Result<Box<dyn SortedLoss + Send>, Error> {
        self.check_options()?;
        let weighed: Box<dyn SortedLoss + Send> = match &self.exit_weights {
            None if self.train_body => Box::new(AllExits),
            None => self.method.sorted_loss(),
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

    /// Refuses options that do not go with the method, the exits or each other.
    fn check_options(&self) -> Result<(), Error> {
        let exits = self.exits.len();
        let given = [
            ("weights of the exits", self.exit_weights.is_some()),
            ("curriculum", self.curriculum.is_some()),
            (
                "exits sampled per micro-batch",
                self.sampled_exits.is_some(),
            ),
            ("balance", self.balance != Balance::default()),
        ];
        if self.method != Method::Soft
            && let Some((key, _)) = given.iter().find(|(_, given)| *given)
        {
            return refuse(
                key,
                format!("some, and method {}", self.method.name()),
                "method soft",
            );
        }
        if let Some(Weights::PerExit(weights)) = &self.exit_weights {
            if weights.len() != exits {
                let found = format!("{} for {exits} exits", weights.len());
                return refuse("weights of the exits", found, "one per exit");
            }
            let sum: f64 = weights.iter().sum();
            if (sum - 1.0).abs() > 1e-6 {
                let found = format!("{weights:?}, which sum to {sum}");
                return refuse("weights of the exits", found, "weights that sum to 1");
            }
        }
        if let Some(sampled) = self.sampled_exits
            && sampled.draws > exits
        {
            let found = format!("{} of {exits}", sampled.draws);
            return refuse(
                "exits sampled per micro-batch",
                found,
                "at most the number of exits",
            );
        }
        if self.balance.limit.is_none() && self.balance.limit_from.is_some() {
            let found = "a step, and no limit".to_owned();
            return refuse("balance limit_from", found, "a limit to begin there");
        }
        if let Some(limit) = self.balance.limit {
            if !(limit.is_finite() && limit > 0.0) {
                return refuse("balance limit", limit.to_string(), "a number above 0");
            }
            let without_full = match &self.exit_weights {
                Some(Weights::PerExit(weights)) => weights.last() == Some(&0.0),
                _ => false,
            };
            if self.sampled_exits.is_some() || without_full {
                let found = "one, and micro-batches without the full depth".to_owned();
                return refuse(
                    "balance limit",
                    found,
                    "no sampled exits, and a weight of the full depth, whose gradient is the measure",
                );
            }
        }
        self.check_what_is_trained()?;
        self.check_distillation()
    }

    /// Refuses to train and to freeze the same weights, and rows that skip what is frozen.
    fn check_what_is_trained(&self) -> Result<(), Error> {
        let frozen = matches!(self.method, Method::Ict | Method::Balcony);
        let method = self.method.name();
        let given = [
            ("last blocks to train", self.last_blocks.is_some()),
            ("lora", self.lora.is_some()),
            ("layer dropout", self.layer_dropout.is_some()),
        ];
        if self.train_body {
            if self.method != Method::Balcony {
                let found = format!("so, and method {method}");
                return refuse("train_body", found, "method balcony");
            }
            if self.objective == Objective::Plain {
                let found = "plain, with train_body".to_owned();
                return refuse("objective", found, "flat, which alone has it");
            }
        }
        if frozen && let Some((key, _)) = given.iter().find(|(_, given)| *given) {
            let found = format!("some, and method {method}");
            return refuse(key, found, "a method that trains blocks");
        }
        if let Some(lora) = &self.lora {
            if self.last_blocks.is_some() {
                let found = "some, and last blocks to train".to_owned();
                return refuse(
                    "lora",
                    found,
                    "one or the other; lora has layers of its own",
                );
            }
            lora.validate()?;
        }
        if let Some(LayerDropout { rate, .. }) = self.layer_dropout {
            if !(rate > 0.0 && rate < 1.0) {
                let expected = "above 0 and below 1";
                return refuse("layer dropout", rate.to_string(), expected);
            }
            if self.objective == Objective::Plain {
                let found = "plain, with layer dropout".to_owned();
                return refuse("objective", found, "flat, which alone has it");
            }
        }
        Ok(())
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

    /// Refuses what a model of this shape does not have: for what can be known before its weights are read.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the setting; exits that do not fit.
    pub fn check_within(&self, config: &LlamaConfig) -> Result<(), Error> {
        self.validate()?;
        self.exits.clone().for_depth(config.n_layers)?;
        if let Some(count) = self.last_blocks {
            check_last_blocks(count, config.n_layers)?;
        }
        let lora = self.lora.as_ref();
        lora.map_or(Ok(()), |lora| lora.check_within(config))
    }

    fn check_distillation(&self) -> Result<(), Error> {
        if self.objective == Objective::Plain
            && (self.distillation.is_some() || self.balance != Balance::default())
        {
            let found = "plain, with distillation or balance".to_owned();
            return refuse("objective", found, "flat, which alone has them");
        }
        let Some(Distillation { share, temperature }) = self.distillation else {
            return Ok(());
        };
        if self.method == Method::Sft {
            let found = "some, and method sft".to_owned();
            return refuse(
                "distillation",
                found,
                "a method that trains intermediate exits",
            );
        }
        if !(share > 0.0 && share <= 1.0) {
            return refuse(
                "distillation share",
                share.to_string(),
                "above 0, at most 1",
            );
        }
        if !(temperature.is_finite() && temperature > 0.0) {
            return refuse(
                "distillation temperature",
                temperature.to_string(),
                "a number above 0",
            );
        }
        Ok(())
    }

    /// Refuses settings that train nothing or make no sense.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the setting.
    pub fn validate(&self) -> Result<(), Error> {
        let optimizer = &self.optimizer;
        let checks = [
            (
                "steps",
                self.steps > 0,
                self.steps.to_string(),
                "at least 1",
            ),
            (
                "accumulation",
                self.accumulation > 0,
                self.accumulation.to_string(),
                "at least 1",
            ),
            (
                "learning rate",
                self.schedule.peak.is_finite() && self.schedule.peak >= 0.0,
                self.schedule.peak.to_string(),
                "a number, 0 or more",
            ),
            (
                "beta1",
                (0.0..1.0).contains(&optimizer.beta1),
                optimizer.beta1.to_string(),
                "0 to below 1",
            ),
            (
                "beta2",
                (0.0..1.0).contains(&optimizer.beta2),
                optimizer.beta2.to_string(),
                "0 to below 1",
            ),
            (
                "eps",
                optimizer.eps > 0.0,
                optimizer.eps.to_string(),
                "more than 0",
            ),
            (
                "weight decay",
                optimizer.weight_decay >= 0.0,
                optimizer.weight_decay.to_string(),
                "0 or more",
            ),
            (
                "clip norm",
                optimizer.clip_norm.is_none_or(|norm| norm > 0.0),
                format!("{:?}", optimizer.clip_norm),
                "more than 0, or none",
            ),
        ];
        match checks.into_iter().find(|(_, good, _, _)| !good) {
            None => self.sorted_loss().map(drop),
            Some((key, _, found, expected)) => Err(Error::Setting {
                key,
                found,
                expected,
            }),
        }
    }
}
