//! One optimizer step of sorted fine-tuning, and the loss at every exit.
//!
//! The trainer holds the model, the optimizer and the settings; it writes nothing to disk. Every
//! method goes through the same lines and differs in its weights per exit (soft-core's
//! [`LossSchedule`]) and in what is frozen. The loss of a step is the mean over the supervised
//! tokens of all its micro-batches together, not a mean of their means, so that accumulation
//! computes what one large batch would.

use std::collections::BTreeMap;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use soft_core::model::ScoreSum;
use soft_core::{Batch, BatchModel, BatchStream, Exit, LossSchedule, MicroBatch};

use crate::device_errors::{guarded, lost};
use crate::dtype::DType;
use crate::error::Error;
use crate::model::llama::Llama;
use crate::model::parameters::not_finite;
use crate::model::placement::check_supported;
use crate::train::accumulation::{ExitTotal, Job, accumulate, finite};
use crate::train::optimizer::NamedAdamW;
use crate::train::refusal::refuse;
use crate::train::setting_checks::check_weights;
use crate::train::settings::TrainSettings;
use crate::train::trained_parts::fitted;

/// Mean loss at one exit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitLoss {
    /// Depth of the sub-model.
    pub exit: Exit,
    /// Mean cross-entropy in nats per supervised token.
    pub loss: f64,
    /// Mean divergence from the full depth in nats per supervised token, when distilling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<f64>,
}

/// What one optimizer step did.
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
    /// Tokens learned from.
    pub supervised_tokens: u64,
    /// Wall time of the step.
    pub seconds: f64,
    /// Tokens read per second.
    pub tokens_per_second: f64,
}

/// Model, optimizer and settings of one run.
#[derive(Debug)]
pub struct Trainer {
    model: Llama,
    optimizer: NamedAdamW,
    settings: TrainSettings,
    schedule: WeightSchedule,
    steps_done: u64,
    /// Devices beside the model's own that compute a share of every step.
    further: Vec<Device>,
}

/// The weights of the exits by step; none while a schedule of the caller's own is missing.
struct WeightSchedule(Option<Box<dyn LossSchedule + Send>>);

impl std::fmt::Debug for WeightSchedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LossSchedule")
    }
}

/// What a step found before it moved the model.
struct StepOutcome {
    losses: BTreeMap<Exit, ExitTotal>,
    total: f64,
    gradient_norm: f64,
    learning_rate: f64,
}

impl Trainer {
    /// A trainer at step 0. Under [`Method::Ict`](crate::Method::Ict) the model gets heads for the
    /// intermediate exits, under [`Method::Balcony`](crate::Method::Balcony) blocks, and with
    /// [`Lora`](crate::Lora) an adapter, unless it has them already.
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
        let model = fitted(model, &settings)?;
        let schedule = match settings.loss_schedule {
            None => Some(settings.method.loss_schedule()?),
            Some(_) => None,
        };
        Ok(Self {
            model,
            optimizer,
            settings,
            schedule: WeightSchedule(schedule),
            steps_done,
            further: Vec::new(),
        })
    }

    /// Weighs the exits by a schedule of the caller's own, which [`TrainSettings::loss_schedule`]
    /// names, so that a run records it and is not resumed without it.
    ///
    /// # Errors
    /// When the settings name none.
    pub fn with_loss_schedule(
        mut self,
        schedule: Box<dyn LossSchedule + Send>,
    ) -> Result<Self, Error> {
        if self.settings.loss_schedule.is_none() {
            let found = "none, but a schedule was given".to_owned();
            return refuse("loss_schedule", found, "the name of that schedule");
        }
        self.schedule = WeightSchedule(Some(schedule));
        Ok(self)
    }

    /// Lets `further` devices compute a share of every step's micro-batches, beside the model's
    /// own. Accumulate at least as many micro-batches as there are devices. Results are those of
    /// one device to rounding.
    ///
    /// # Errors
    /// When a device does not compute with the weights' number type.
    pub fn with_devices(mut self, further: Vec<Device>) -> Result<Self, Error> {
        let weights = self.settings.dtype;
        further
            .iter()
            .try_for_each(|device| check_supported(weights, device))?;
        self.further = further;
        Ok(self)
    }

    /// The model in training.
    pub fn model(&self) -> &Llama {
        &self.model
    }

    /// The model without autodiff, in f32 and with an adapter merged: for evaluation and saving.
    pub fn trained(&self) -> Llama {
        self.snapshot().merged()
    }

    /// The model without autodiff, in f32, an adapter apart.
    pub(crate) fn snapshot(&self) -> Llama {
        self.model.valid().with_weights(DType::F32)
    }

    /// The settings of the run.
    pub fn settings(&self) -> &TrainSettings {
        &self.settings
    }

    /// Optimizer steps done so far.
    pub fn steps_done(&self) -> u64 {
        self.steps_done
    }

    /// Refuses to write a model with a weight that is not finite.
    pub(crate) fn check_weights(&self) -> Result<(), Error> {
        let (step, checkpoint) = (self.steps_done, None);
        if self.model.model.layers.len() != self.model.config().n_layers {
            return Err(Error::DeviceLost {
                device: format!("{:?}", self.model.device()),
                reason: "the model went with it".to_owned(),
                checkpoint,
            });
        }
        match not_finite(&self.model) {
            None => Ok(()),
            Some(tensor) => Err(Error::WeightsNotFinite {
                step,
                tensor,
                checkpoint,
            }),
        }
    }

    pub(crate) fn optimizer(&self) -> &NamedAdamW {
        &self.optimizer
    }

    /// One optimizer step on the next micro-batches of `stream`.
    ///
    /// # Errors
    /// When the stream fails, or a loss or gradient is not finite; the model is then as before the
    /// step. [`Error::DeviceLost`] when a device fails, [`Error::OutOfMemory`] when it has too
    /// little; the model may be lost with it, the last checkpoint is not.
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
        let home = self.model.device();
        let moved = guarded(&home, || {
            let moved = self.moved(&batches, supervised)?;
            // The time that the report gives is that of all the work.
            home.sync()
                .map_err(|reason| lost(&home, &reason.to_string()))?;
            Ok(moved)
        })?;
        self.steps_done = step;

        let tokens: usize = batches.iter().flat_map(Batch::lengths).sum();
        let seconds = started.elapsed().as_secs_f64();
        let distils = self.settings.method.distillation().is_some();
        let mean = |(exit, total): (&Exit, &ExitTotal)| {
            let of = |sum: f64| sum / total.supervised as f64;
            ExitLoss {
                exit: *exit,
                loss: of(total.nats),
                divergence: distils.then(|| of(total.divergence)),
            }
        };
        Ok(StepReport {
            step,
            loss: moved.total,
            exits: moved.losses.iter().map(mean).collect(),
            learning_rate: moved.learning_rate,
            gradient_norm: moved.gradient_norm,
            tokens: tokens as u64,
            supervised_tokens: supervised as u64,
            seconds,
            tokens_per_second: tokens as f64 / seconds,
        })
    }

    /// Moves the model by the gradients of all micro-batches.
    fn moved(&mut self, batches: &[Batch], supervised: usize) -> Result<StepOutcome, Error> {
        let step = self.steps_done + 1;
        let learning = (0..).zip(batches);
        let jobs = learning.filter(|(_, batch)| batch.supervised_tokens() > 0);
        let job = |(index, batch)| {
            let at = MicroBatch { step, index };
            let weights = self.checked_weights(at)?;
            Ok::<_, Error>(Job { at, batch, weights })
        };
        let jobs = jobs.map(job).collect::<Result<Vec<_>, _>>()?;
        let (further, settings) = (&self.further, &self.settings);
        let found = accumulate(&self.model, further, &jobs, settings, supervised as f64)?;
        let norm = found.gradients.norm();
        let gradient_norm =
            norm.map_err(|tensor| self.bad_gradient(step, tensor, &found.losses))?;
        let learning_rate = self.settings.schedule.rate(step, self.settings.steps);
        // Taken, not cloned: weights are changed in place only when nothing else holds them.
        let placeholder = self.model.placeholder();
        let model = std::mem::replace(&mut self.model, placeholder);
        let optimizer = &mut self.optimizer;
        self.model = optimizer.step(model, found.gradients, gradient_norm, learning_rate);
        Ok(StepOutcome {
            losses: found.losses,
            total: found.total,
            gradient_norm,
            learning_rate,
        })
    }

    /// The weights of the exits for a micro-batch; a schedule of the caller's own may be wrong.
    fn checked_weights(&self, at: MicroBatch) -> Result<Vec<f64>, Error> {
        let Some(schedule) = &self.schedule.0 else {
            let name = self.settings.loss_schedule.as_deref().unwrap_or_default();
            let found = format!("`{name}`, and no schedule was given");
            return refuse("loss_schedule", found, "one by `with_loss_schedule`");
        };
        let exits = &self.settings.exits;
        let weights = schedule.weights(exits, at);
        let good = |weight: &f64| weight.is_finite() && *weight >= 0.0;
        if weights.len() != exits.len() || !weights.iter().all(good) {
            let found = format!("{weights:?} at step {}", at.step);
            let expected = "one finite weight per exit, none negative";
            return refuse("weights of the exits", found, expected);
        }
        check_weights(&weights)?;
        Ok(weights)
    }

    fn bad_gradient(&self, step: u64, tensor: String, losses: &BTreeMap<Exit, ExitTotal>) -> Error {
        // Sums over targets, as they came.
        let losses = losses
            .iter()
            .map(|(exit, total)| format!("exit {exit}: {:.4}", total.nats));
        let losses = losses.collect::<Vec<_>>().join(", ");
        Error::GradientNotFinite {
            step,
            tensor,
            losses,
            checkpoint: None,
        }
    }

    /// Mean loss of every exit over `batches`, for every method.
    ///
    /// # Errors
    /// When a batch does not fit the model, there is nothing to predict, or a loss is not finite.
    pub fn validate(&self, batches: &[Batch]) -> Result<Vec<ExitLoss>, Error> {
        // An adapter stays apart: merging it would hold all its weights twice.
        let model = self.snapshot();
        let exits = &self.settings.exits;
        let mut sums = vec![ScoreSum::default(); exits.len()];
        for batch in batches {
            for (sum, scores) in sums.iter_mut().zip(model.batch_scores(batch, exits)?) {
                sum.add_all(&scores);
            }
        }
        let mean = |(exit, sum): (Exit, ScoreSum)| {
            let loss = sum.nats / sum.targets as f64;
            finite(loss, exit, self.steps_done).map(|loss| ExitLoss {
                exit,
                loss,
                divergence: None,
            })
        };
        exits.iter().zip(sums).map(mean).collect()
    }
}
