//! One optimiser step of sorted fine-tuning, and the loss at every exit.
//!
//! The trainer holds the model, the optimiser and the settings; it writes nothing to disk. Every
//! method goes through the same lines and differs in its weights per exit (soft-core's
//! [`SortedLoss`]) and in what is frozen. The loss of a step is the mean over the supervised
//! tokens of all its micro-batches together, not a mean of their means, so that accumulation
//! computes what one large batch would.

use std::time::Instant;

use burn::module::Module;
use serde::{Deserialize, Serialize};
use soft_core::{
    AllExits, Batch, BatchStream, Exit, Exits, IntermediateExits, LastExit, NestedModel,
    SortedLoss, TrainModel, sorted_loss,
};

use crate::optimizer::{AdamWSettings, NamedAdamW, NamedGradients};
use crate::parameters::named_gradients;
use crate::schedule::{Decay, Schedule};
use crate::{Error, Llama};

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
        }
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
            None => Ok(()),
            Some((key, _, found, expected)) => Err(Error::Setting {
                key,
                found,
                expected,
            }),
        }
    }
}

/// Mean loss at one exit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitLoss {
    /// Depth of the sub-model.
    pub exit: Exit,
    /// Mean cross-entropy in nats per supervised token.
    pub loss: f64,
}

/// What one optimiser step did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// The step, counted from 1.
    pub step: u64,
    /// The loss that was differentiated: Σ weight · loss over the exits.
    pub loss: f64,
    /// Mean loss at each exit that counts, before the step.
    pub exits: Vec<ExitLoss>,
    /// Learning rate.
    pub learning_rate: f64,
    /// Global gradient norm before clipping.
    pub gradient_norm: f64,
    /// Tokens read, without padding.
    pub tokens: u64,
    /// Tokens learnt from.
    pub supervised_tokens: u64,
    /// Wall time of the step.
    pub seconds: f64,
    /// Tokens read per second.
    pub tokens_per_second: f64,
}

/// Model, optimiser and settings of one run.
#[derive(Debug)]
pub struct Trainer {
    /// None only while a step replaces it.
    model: Llama,
    optimizer: NamedAdamW,
    settings: TrainSettings,
    weights: SortedWeights,
    steps_done: u64,
}

/// The schedule of the sorted loss, a value one cannot print.
struct SortedWeights(Box<dyn SortedLoss + Send>);

impl std::fmt::Debug for SortedWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SortedLoss")
    }
}

/// What the micro-batches of one step add up to.
struct Accumulated {
    gradients: NamedGradients,
    /// Summed cross-entropy per exit that counts.
    losses: Vec<(Exit, f64)>,
    /// The loss that was differentiated.
    total: f64,
}

impl Trainer {
    /// A trainer at step 0. Under [`Method::Ict`] the model gets heads for the intermediate exits
    /// unless it has them already.
    ///
    /// # Errors
    /// When settings or exits do not fit.
    pub fn new(model: Llama, settings: TrainSettings) -> Result<Self, Error> {
        let optimizer = NamedAdamW::new(settings.optimizer);
        Self::at_step(model, settings, optimizer, 0)
    }

    pub(crate) fn at_step(
        model: Llama,
        settings: TrainSettings,
        optimizer: NamedAdamW,
        steps_done: u64,
    ) -> Result<Self, Error> {
        settings.validate()?;
        let exits = settings.exits.clone().for_depth(model.depth())?;
        let model = match settings.method {
            Method::Ict if model.exits_with_heads().is_empty() => model.with_exit_heads(&exits)?,
            _ => model,
        };
        let mut model = model.train();
        if settings.method == Method::Ict {
            model = model.freeze_all_but_exit_heads();
        }
        let weights = SortedWeights(settings.method.sorted_loss());
        Ok(Self {
            model,
            optimizer,
            settings,
            weights,
            steps_done,
        })
    }

    /// Replaces how the exits are weighed: for methods beside the paper's own.
    pub fn with_sorted_loss(mut self, sorted_loss: Box<dyn SortedLoss + Send>) -> Self {
        self.weights = SortedWeights(sorted_loss);
        self
    }

    /// The model in training.
    pub fn model(&self) -> &Llama {
        &self.model
    }

    /// The model without autodiff, for evaluation and saving.
    pub fn trained(&self) -> Llama {
        self.model.valid()
    }

    /// The settings of the run.
    pub fn settings(&self) -> &TrainSettings {
        &self.settings
    }

    /// Optimiser steps done so far.
    pub fn steps_done(&self) -> u64 {
        self.steps_done
    }

    pub(crate) fn optimizer(&self) -> &NamedAdamW {
        &self.optimizer
    }

    /// One optimiser step on the next micro-batches of `stream`.
    ///
    /// # Errors
    /// When the stream fails, or a loss or gradient is not finite; the model is then as before the
    /// step.
    pub fn step<S: BatchStream>(&mut self, stream: &mut S) -> Result<StepReport, Error> {
        let started = Instant::now();
        let step = self.steps_done + 1;
        let next = |_| {
            stream
                .next_batch()
                .map_err(|source| Error::Data(Box::new(source)))
        };
        let batches = (0..self.settings.accumulation)
            .map(next)
            .collect::<Result<Vec<_>, _>>()?;
        let supervised: usize = batches.iter().map(Batch::supervised_tokens).sum();
        if supervised == 0 {
            return Err(Error::NothingToLearn { step });
        }

        let accumulated = self.accumulate(&batches, supervised as f64, step)?;
        let norm = accumulated.gradients.norm();
        let gradient_norm =
            norm.map_err(|tensor| self.bad_gradient(step, tensor, &accumulated.losses))?;
        let learning_rate = self.settings.schedule.rate(step, self.settings.steps);
        let model = self.model.clone();
        self.model =
            self.optimizer
                .step(model, accumulated.gradients, gradient_norm, learning_rate);
        self.steps_done = step;

        let tokens: usize = batches.iter().flat_map(Batch::lengths).sum();
        let seconds = started.elapsed().as_secs_f64();
        let mean = |(exit, sum): &(Exit, f64)| ExitLoss {
            exit: *exit,
            loss: sum / supervised as f64,
        };
        Ok(StepReport {
            step,
            loss: accumulated.total,
            exits: accumulated.losses.iter().map(mean).collect(),
            learning_rate,
            gradient_norm,
            tokens: tokens as u64,
            supervised_tokens: supervised as u64,
            seconds,
            tokens_per_second: tokens as f64 / seconds,
        })
    }

    /// Losses and summed gradients of all micro-batches.
    fn accumulate(
        &self,
        batches: &[Batch],
        normaliser: f64,
        step: u64,
    ) -> Result<Accumulated, Error> {
        let exits = &self.settings.exits;
        let weights = self.weights.0.weights(exits, step);
        let mut sum = Accumulated {
            gradients: NamedGradients::default(),
            losses: Vec::new(),
            total: 0.0,
        };
        for batch in batches.iter().filter(|batch| batch.supervised_tokens() > 0) {
            let (tokens, targets) = self.model.prepare(batch)?;
            let output = sorted_loss(
                &self.model,
                (&tokens, &targets),
                exits,
                &weights,
                normaliser,
            )?;
            for (index, (exit, loss)) in output.per_exit.into_iter().enumerate() {
                let loss = f64::from(loss.inner().into_scalar::<f32>());
                if !loss.is_finite() {
                    let exit = exit.depth();
                    return Err(Error::LossNotFinite {
                        step,
                        exit,
                        value: loss,
                        checkpoint: 0,
                    });
                }
                match sum.losses.get_mut(index) {
                    Some((_, total)) => *total += loss,
                    None => sum.losses.push((exit, loss)),
                }
            }
            sum.total += f64::from(output.total.clone().inner().into_scalar::<f32>());
            let mut gradients = output.total.backward();
            for (name, gradient) in named_gradients(&self.model, &mut gradients) {
                sum.gradients.add(name, gradient);
            }
        }
        Ok(sum)
    }

    fn bad_gradient(&self, step: u64, tensor: String, losses: &[(Exit, f64)]) -> Error {
        let losses = losses
            .iter()
            .map(|(exit, loss)| format!("exit {exit}: {loss:.4}"));
        let losses = losses.collect::<Vec<_>>().join(", ");
        Error::GradientNotFinite {
            step,
            tensor,
            losses,
            checkpoint: 0,
        }
    }

    /// Mean loss of every exit over `batches`, whatever the method trains.
    ///
    /// # Errors
    /// When a batch does not fit the model.
    pub fn validate(&self, batches: &[Batch]) -> Result<Vec<ExitLoss>, Error> {
        let model = self.trained();
        let exits = &self.settings.exits;
        let mut sums = vec![0.0; exits.len()];
        for batch in batches {
            let (tokens, targets) = model.prepare(batch)?;
            let mut sum = sums.iter_mut();
            model.visit_exits(&tokens, exits, |exit, hidden| {
                if let Some(sum) = sum.next() {
                    *sum += model.target_scores(hidden, exit, &targets)?.nats;
                }
                Ok(())
            })?;
        }
        let supervised: usize = batches.iter().map(Batch::supervised_tokens).sum();
        let mean = |(exit, sum): (Exit, f64)| ExitLoss {
            exit,
            loss: sum / supervised as f64,
        };
        Ok(exits.iter().zip(sums).map(mean).collect())
    }
}
