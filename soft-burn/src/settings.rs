//! What a training run is told: method, exits, steps, rate, optimiser.
//!
//! Plain values; nothing here computes. Defaults are those of Sorted LLaMA, section 4.

use serde::{Deserialize, Serialize};
use soft_core::{
    AllExits, ExitWeights, Exits, IntermediateExits, LastExit, SampledExits, SortedLoss,
};

use crate::Error;
use crate::objective::Objective;
use crate::optimizer::AdamWSettings;
use crate::schedule::{Decay, Schedule};

/// A training method of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Sorted fine-tuning: every exit counts the same, all weights are trained.
    Soft,
    /// Standard fine-tuning: the full model alone counts.
    Sft,
    /// Early-Exit (ICT): blocks frozen, one head per intermediate exit is trained.
    Ict,
}

impl Method {
    /// How this method weighs the exits.
    pub fn sorted_loss(self) -> Box<dyn SortedLoss + Send> {
        match self {
            Self::Soft => Box::new(AllExits),
            Self::Sft => Box::new(LastExit),
            Self::Ict => Box::new(IntermediateExits),
        }
    }

    /// Its name: "soft", "sft" or "ict".
    pub fn name(self) -> &'static str {
        match self {
            Self::Soft => "soft",
            Self::Sft => "sft",
            Self::Ict => "ict",
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
    /// Weight of each exit in SoFT's loss, shallowest first, instead of all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_weights: Option<Vec<f64>>,
    /// SoFT trains this many exits per step, drawn by their weights, instead of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampled_exits: Option<SampledPerStep>,
}

/// How many exits a step trains, and the seed they are drawn with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampledPerStep {
    /// Exits drawn per step.
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
            exit_weights: None,
            sampled_exits: None,
        }
    }

    /// How the exits are weighed: as the method says, or as these settings say instead.
    ///
    /// # Errors
    /// When weights or samples do not go with the method or the exits.
    pub fn sorted_loss(&self) -> Result<Box<dyn SortedLoss + Send>, Error> {
        let mut sorted_loss = self.method.sorted_loss();
        if let Some(weights) = &self.exit_weights {
            if self.method != Method::Soft || weights.len() != self.exits.len() {
                let (found, name) = (weights.len(), self.method.name());
                return Err(Error::Setting {
                    key: "weights of the exits",
                    found: format!("{found} for {} exits and method {name}", self.exits.len()),
                    expected: "one per exit, and method soft",
                });
            }
            sorted_loss = Box::new(ExitWeights::new(weights.as_slice())?);
        }
        if let Some(SampledPerStep { draws, seed }) = self.sampled_exits {
            if self.method != Method::Soft || draws > self.exits.len() {
                let name = self.method.name();
                return Err(Error::Setting {
                    key: "exits sampled per step",
                    found: format!("{draws} of {} and method {name}", self.exits.len()),
                    expected: "at most the number of exits, and method soft",
                });
            }
            sorted_loss = Box::new(SampledExits::new(sorted_loss, draws, seed)?);
        }
        Ok(sorted_loss)
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
