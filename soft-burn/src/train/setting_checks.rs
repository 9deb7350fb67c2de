//! Checks of training settings, alone and for a model configuration.
//!
//! Only values are used, so that settings can be refused before weights are read.

use crate::dtype::DType;
use crate::error::Error;
use crate::model::config::LlamaConfig;
use crate::train::balance::Balance;
use crate::train::combination::Combination;
use crate::train::layer_dropout::LayerDropout;
use crate::train::method::{
    BodyOptions, Distillation, Method, SoftOptions, TrainedWeights, Weights,
};
use crate::train::refusal::refuse;
use crate::train::settings::{Objective, TrainSettings};

/// Maximum number of micro-batches of a step, which are held in memory together.
const MAX_ACCUMULATION: usize = 10_000;

/// Returns an error unless `count` is 1 to `depth`.
pub(crate) fn check_last_blocks(count: usize, depth: usize) -> Result<(), Error> {
    if (1..=depth).contains(&count) {
        return Ok(());
    }
    let found = format!("{count} of {depth}");
    refuse("last blocks to train", found, "1 to the number of blocks")
}

/// Returns an error for weights of exits that do not sum to 1.
pub(crate) fn check_weights(weights: &[f64]) -> Result<(), Error> {
    let sum: f64 = weights.iter().sum();
    if (sum - 1.0).abs() <= 1e-6 {
        return Ok(());
    }
    let found = format!("{weights:?}, which sum to {sum}");
    refuse("weights of the exits", found, "weights that sum to 1")
}

impl TrainSettings {
    /// Checks that the settings are in range and consistent.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the setting.
    pub fn validate(&self) -> Result<(), Error> {
        self.check_numbers()?;
        if self.dtype == DType::F16 {
            // Small gradients vanish in f16 without loss scaling, which bf16 does not need.
            let found = self.dtype.to_string();
            return refuse("the number type to train in", found, "f32 or bf16");
        }
        if let Method::Soft(soft) = &self.method {
            soft.check(self.exits.len())?;
        }
        if let Some(body) = self.method.body() {
            body.check()?;
        }
        if let Some(distillation) = self.method.distillation() {
            distillation.check()?;
        }
        self.check_plain_objective()?;
        self.method.loss_schedule().map(drop)
    }

    /// Checks the settings for a model of this configuration, before its weights are read.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the setting; exits that do not fit the model.
    pub fn check_within(&self, config: &LlamaConfig) -> Result<(), Error> {
        self.validate()?;
        self.exits.clone().for_depth(config.n_layers)?;
        match self.method.body().map(|body| &body.trained) {
            Some(TrainedWeights::LastBlocks(count)) => check_last_blocks(*count, config.n_layers),
            Some(TrainedWeights::Lora(lora)) => lora.check_within(config),
            _ => Ok(()),
        }
    }

    /// The plain objective supports only the paper's loss, in one graph.
    fn check_plain_objective(&self) -> Result<(), Error> {
        if self.objective != Objective::Plain {
            return Ok(());
        }
        let refused = |found: &str, expected| refuse("objective", found.to_owned(), expected);
        if self.method.trains_body_beside_exits() {
            return refused("plain, with train_body", "flat, which alone has it");
        }
        if self.gradient_checkpointing {
            return refused(
                "plain, with gradient checkpointing",
                "flat, which alone has it",
            );
        }
        let body = self.method.body();
        if body.is_some_and(|body| body.layer_dropout.is_some()) {
            return refused("plain, with layer dropout", "flat, which alone has it");
        }
        let balanced = match &self.method {
            Method::Soft(soft) => soft.balance != Balance::default(),
            _ => false,
        };
        if balanced || self.method.distillation().is_some() {
            let found = "plain, with distillation or balance";
            return refused(found, "flat, which alone has them");
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), Error> {
        let (optimizer, schedule) = (&self.optimizer, &self.schedule);
        let check = |key, good: bool, found: &dyn std::fmt::Display, expected| {
            if good {
                Ok(())
            } else {
                refuse(key, found.to_string(), expected)
            }
        };
        check("steps", self.steps > 0, &self.steps, "at least 1")?;
        let accumulation = (1..=MAX_ACCUMULATION).contains(&self.accumulation);
        check(
            "accumulation",
            accumulation,
            &self.accumulation,
            "1 to 10000",
        )?;
        check(
            "warm-up steps",
            schedule.warmup_steps <= self.steps,
            &format_args!(
                "{} of {} steps, which never reach the rate",
                schedule.warmup_steps, self.steps
            ),
            "at most the number of steps",
        )?;
        let rate = schedule.peak.is_finite() && schedule.peak >= 0.0;
        check("learning rate", rate, &schedule.peak, "a number, 0 or more")?;
        for (key, beta) in [("beta1", optimizer.beta1), ("beta2", optimizer.beta2)] {
            check(key, (0.0..1.0).contains(&beta), &beta, "0 to below 1")?;
        }
        check("eps", optimizer.eps > 0.0, &optimizer.eps, "more than 0")?;
        let decay = optimizer.weight_decay;
        check("weight decay", decay >= 0.0, &decay, "0 or more")?;
        check(
            "clip norm",
            optimizer.clip_norm.is_none_or(|norm| norm > 0.0),
            &format_args!("{:?}", optimizer.clip_norm),
            "more than 0, or none",
        )
    }
}

impl SoftOptions {
    fn check(&self, exits: usize) -> Result<(), Error> {
        if let Some(Weights::PerExit(weights)) = &self.exit_weights {
            if weights.len() != exits {
                let found = format!("{} for {exits} exits", weights.len());
                return refuse("weights of the exits", found, "one per exit");
            }
            check_weights(weights)?;
        }
        if let Some(sampled) = self.sampled_exits
            && sampled.draws > exits
        {
            let found = format!("{} of {exits}", sampled.draws);
            let expected = "at most the number of exits";
            return refuse("exits sampled per micro-batch", found, expected);
        }
        self.check_balance()
    }

    fn check_balance(&self) -> Result<(), Error> {
        let Balance {
            limit, combination, ..
        } = self.balance;
        let Some(limit) = limit else {
            return Ok(());
        };
        if combination != Combination::Sum {
            let found = "one, and gradients that are combined otherwise".to_owned();
            return refuse("gradient limit", found, "one or the other");
        }
        if !(limit.is_finite() && limit > 0.0) {
            return refuse("gradient limit", limit.to_string(), "a number above 0");
        }
        let without_full = match &self.exit_weights {
            Some(Weights::PerExit(weights)) => weights.last() == Some(&0.0),
            _ => false,
        };
        if self.sampled_exits.is_some() || without_full {
            let found = "one, and micro-batches without the full depth".to_owned();
            let expected =
                "no sampled exits, and a weight of the full depth, whose gradient is the measure";
            return refuse("gradient limit", found, expected);
        }
        Ok(())
    }
}

impl BodyOptions {
    fn check(&self) -> Result<(), Error> {
        if let TrainedWeights::Lora(lora) = &self.trained {
            lora.validate()?;
        }
        if let Some(LayerDropout { rate, .. }) = self.layer_dropout
            && !(rate > 0.0 && rate < 1.0)
        {
            return refuse("layer dropout", rate.to_string(), "above 0 and below 1");
        }
        Ok(())
    }
}

impl Distillation {
    fn check(&self) -> Result<(), Error> {
        let Self { share, temperature } = *self;
        if !(share > 0.0 && share <= 1.0) {
            let expected = "above 0, at most 1";
            return refuse("distillation share", share.to_string(), expected);
        }
        if !(temperature.is_finite() && temperature > 0.0) {
            let found = temperature.to_string();
            return refuse("distillation temperature", found, "a number above 0");
        }
        Ok(())
    }
}
