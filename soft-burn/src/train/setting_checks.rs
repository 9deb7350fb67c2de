//! Which training settings make sense, alone, together, and for a model of some shape.
//!
//! Knows values only: everything here can be refused before a weight is read.

use crate::dtype::DType;
use crate::error::Error;
use crate::model::config::LlamaConfig;
use crate::train::balance::Balance;
use crate::train::layer_dropout::LayerDropout;
use crate::train::settings::{Distillation, Method, Objective, TrainSettings, Weights};

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

/// Micro-batches of a step that are held at a time.
const MAX_ACCUMULATION: usize = 10_000;

/// A setting's refusal.
pub(crate) fn refuse<T>(
    key: &'static str,
    found: String,
    expected: &'static str,
) -> Result<T, Error> {
    Err(Error::Setting {
        key,
        found,
        expected,
    })
}

impl TrainSettings {
    /// Refuses options that do not go with the method, the exits or each other.
    pub(crate) fn check_options(&self) -> Result<(), Error> {
        if self.weights == DType::F16 {
            // Small gradients vanish in it without loss scaling, which bf16 does not need.
            return refuse(
                "the number type to train in",
                self.weights.to_string(),
                "f32 or bf16",
            );
        }
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
                (1..=MAX_ACCUMULATION).contains(&self.accumulation),
                self.accumulation.to_string(),
                "1 to 10000",
            ),
            (
                "warm-up steps",
                self.schedule.warmup_steps <= self.steps,
                format!(
                    "{} of {} steps, which never reach the rate",
                    self.schedule.warmup_steps, self.steps
                ),
                "at most the number of steps",
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
            None => self.loss_schedule().map(drop),
            Some((key, _, found, expected)) => Err(Error::Setting {
                key,
                found,
                expected,
            }),
        }
    }
}
