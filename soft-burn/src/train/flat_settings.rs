//! Training settings on one level, as in `run.json`, recipes and flags.
//!
//! Options can contradict each other here but not in [`TrainSettings`]; the conversion then fails.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use soft_core::Exits;

use crate::dtype::DType;
use crate::error::Error;
use crate::lora::Lora;
use crate::train::balance::Balance;
use crate::train::layer_dropout::LayerDropout;
use crate::train::method::{
    BodyOptions, Curriculum, Distillation, ExitOptions, Method, MethodName, SampledPerBatch,
    SoftOptions, TrainedWeights, Weights,
};
use crate::train::optimizer::AdamWSettings;
use crate::train::refusal::refuse;
use crate::train::schedule::Schedule;
use crate::train::settings::{Objective, TrainSettings};

/// Training settings on one level: those of [`TrainSettings`] and the options of [`Method`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlatSettings {
    /// Training method.
    pub method: MethodName,
    /// Exits to train and to validate.
    pub exits: Exits,
    /// Total number of optimizer steps.
    pub steps: u64,
    /// Micro-batches per optimizer step.
    pub accumulation: usize,
    /// Learning rate schedule.
    pub schedule: Schedule,
    /// The optimizer.
    pub optimizer: AdamWSettings,
    /// How the loss is differentiated.
    #[serde(default)]
    pub objective: Objective,
    /// SoFT, SFT: train only this many of the last blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_blocks: Option<usize>,
    /// Balcony: also train the model.
    #[serde(default, skip_serializing_if = "is_default")]
    pub train_body: bool,
    /// SoFT, SFT: train low-rank adapters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
    /// SoFT, SFT: layer dropout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_dropout: Option<LayerDropout>,
    /// Number type of the weights.
    #[serde(default, skip_serializing_if = "is_default")]
    pub weights: DType,
    /// Gradient checkpointing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub gradient_checkpointing: bool,
    /// SoFT: weights of the exits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_weights: Option<Weights>,
    /// SoFT: which exits are trained at which step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub curriculum: Option<Curriculum>,
    /// SoFT: number of exits drawn per micro-batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampled_exits: Option<SampledPerBatch>,
    /// All but SFT: distill the exits from the full depth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation: Option<Distillation>,
    /// SoFT: limits on how exits change shared weights.
    #[serde(default, skip_serializing_if = "is_default")]
    pub balance: Balance,
    /// Name of a custom loss schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_schedule: Option<String>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Serialize for TrainSettings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        FlatSettings::from(self.clone()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for TrainSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let flat = FlatSettings::deserialize(deserializer)?;
        Self::try_from(flat).map_err(D::Error::custom)
    }
}

impl From<TrainSettings> for FlatSettings {
    fn from(settings: TrainSettings) -> Self {
        let method = settings.method;
        let body = method.body().cloned().unwrap_or_default();
        let soft = match &method {
            Method::Soft(soft) => soft.clone(),
            _ => SoftOptions::default(),
        };
        let (last_blocks, lora) = match body.trained {
            TrainedWeights::All => (None, None),
            TrainedWeights::LastBlocks(count) => (Some(count), None),
            TrainedWeights::Lora(lora) => (None, Some(lora)),
        };
        Self {
            method: method.name(),
            exits: settings.exits,
            steps: settings.steps,
            accumulation: settings.accumulation,
            schedule: settings.schedule,
            optimizer: settings.optimizer,
            objective: settings.objective,
            last_blocks,
            train_body: method.trains_body_beside_exits(),
            lora,
            layer_dropout: body.layer_dropout,
            weights: settings.dtype,
            gradient_checkpointing: settings.gradient_checkpointing,
            exit_weights: soft.exit_weights,
            curriculum: soft.curriculum,
            sampled_exits: soft.sampled_exits,
            distillation: method.distillation(),
            balance: soft.balance,
            loss_schedule: settings.loss_schedule,
        }
    }
}

impl TryFrom<FlatSettings> for TrainSettings {
    type Error = Error;

    /// Returns an error for options that contradict the method or each other.
    fn try_from(flat: FlatSettings) -> Result<Self, Error> {
        Ok(Self {
            method: flat.typed_method()?,
            exits: flat.exits,
            steps: flat.steps,
            accumulation: flat.accumulation,
            schedule: flat.schedule,
            optimizer: flat.optimizer,
            objective: flat.objective,
            dtype: flat.weights,
            gradient_checkpointing: flat.gradient_checkpointing,
            loss_schedule: flat.loss_schedule,
        })
    }
}

impl FlatSettings {
    fn typed_method(&self) -> Result<Method, Error> {
        self.refuse_unless_soft()?;
        self.refuse_with_frozen_body()?;
        if self.train_body && self.method != MethodName::Balcony {
            let found = format!("so, and method {}", self.method.as_str());
            return refuse("train_body", found, "method balcony");
        }
        if self.method == MethodName::Sft && self.distillation.is_some() {
            let found = "some, and method sft".to_owned();
            let expected = "a method that trains intermediate exits";
            return refuse("distillation", found, expected);
        }
        let exits = ExitOptions {
            distillation: self.distillation,
        };
        Ok(match self.method {
            MethodName::Soft => Method::Soft(SoftOptions {
                exit_weights: self.exit_weights.clone(),
                curriculum: self.curriculum,
                sampled_exits: self.sampled_exits,
                balance: self.balance,
                exits,
                body: self.body()?,
            }),
            MethodName::Sft => Method::Sft(self.body()?),
            MethodName::Ict => Method::Ict(exits),
            MethodName::Balcony => Method::Balcony {
                train_body: self.train_body,
                exits,
            },
        })
    }

    fn refuse_unless_soft(&self) -> Result<(), Error> {
        let given = [
            ("weights of the exits", self.exit_weights.is_some()),
            ("curriculum", self.curriculum.is_some()),
            (
                "exits sampled per micro-batch",
                self.sampled_exits.is_some(),
            ),
            ("balance", self.balance != Balance::default()),
        ];
        self.refuse_given(MethodName::Soft != self.method, &given, "method soft")
    }

    fn refuse_with_frozen_body(&self) -> Result<(), Error> {
        let frozen = matches!(self.method, MethodName::Ict | MethodName::Balcony);
        let given = [
            ("last blocks to train", self.last_blocks.is_some()),
            ("lora", self.lora.is_some()),
            ("layer dropout", self.layer_dropout.is_some()),
        ];
        self.refuse_given(frozen, &given, "a method that trains blocks")
    }

    fn refuse_given(
        &self,
        refused: bool,
        given: &[(&'static str, bool)],
        expected: &'static str,
    ) -> Result<(), Error> {
        match given.iter().find(|(_, given)| refused && *given) {
            None => Ok(()),
            Some((key, _)) => {
                let found = format!("some, and method {}", self.method.as_str());
                refuse(key, found, expected)
            }
        }
    }

    fn body(&self) -> Result<BodyOptions, Error> {
        let trained = match (self.last_blocks, &self.lora) {
            (None, None) => TrainedWeights::All,
            (Some(count), None) => TrainedWeights::LastBlocks(count),
            (None, Some(lora)) => TrainedWeights::Lora(lora.clone()),
            (Some(_), Some(_)) => {
                let found = "some, and last blocks to train".to_owned();
                let expected = "one or the other; lora has layers of its own";
                return refuse("lora", found, expected);
            }
        };
        Ok(BodyOptions {
            trained,
            layer_dropout: self.layer_dropout,
        })
    }
}
