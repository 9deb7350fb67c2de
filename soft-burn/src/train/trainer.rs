//! One optimizer step of sorted fine-tuning, and the loss at every exit.
//!
//! The trainer holds model, optimizer and settings; it writes nothing to disk. All methods use the
//! same code and differ in their weights per exit (soft-core's [`LossSchedule`]) and in what is
//! frozen. The loss of a step is the mean over the supervised tokens of all its micro-batches, not
//! the mean of their means, so that accumulation equals one large batch.

use std::collections::BTreeMap;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use soft_core::model::ScoreSum;
use soft_core::{Batch, BatchModel, BatchStream, Exit, LossSchedule, MicroBatch};

use crate::device_errors::guarded;
use crate::dtype::DType;
use crate::error::Error;
use crate::model::llama::Llama;
use crate::model::parameters::not_finite;
use crate::model::placement::check_supported;
use crate::train::accumulation::{ExitTotal, Job, accumulate, finite};
use crate::train::canary::Canary;
use crate::train::gradients::GradientNorms;
use crate::train::optimizer::NamedAdamW;
use crate::train::refusal::refuse;
use crate::train::replicas::Replicas;
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
    /// Mean divergence from the full depth in nats per supervised token, with distillation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<f64>,
}

/// The report of one optimizer step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// The step, counted from 1.
    pub step: u64,
    /// The loss that was differentiated: Σ weight · loss over the exits.
    pub loss: f64,
    /// Mean loss at each exit with a weight, before the step.
    pub exits: Vec<ExitLoss>,
    /// Learning rate.
    pub learning_rate: f64,
    /// Global gradient norm before clipping: of the model itself, if it is trained; otherwise of
    /// its exits' own heads or blocks.
    pub gradient_norm: f64,
    /// The same of its exits' own blocks, where both are trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_gradient_norm: Option<f64>,
    /// Tokens processed, without padding.
    pub tokens: u64,
    /// Supervised tokens.
    pub supervised_tokens: u64,
    /// Wall time of the step.
    pub seconds: f64,
    /// Tokens processed per second.
    pub tokens_per_second: f64,
}

/// Model, optimizer and settings of one run.
#[derive(Debug)]
pub struct Trainer {
    replicas: Replicas,
    optimizer: NamedAdamW,
    settings: TrainSettings,
    schedule: WeightSchedule,
    steps_done: u64,
    canary: Option<Canary>,
}

/// The weights of the exits at every step; `None` until a custom schedule is given.
struct WeightSchedule(Option<Box<dyn LossSchedule + Send>>);

impl std::fmt::Debug for WeightSchedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LossSchedule")
    }
}

struct StepOutcome {
    losses: BTreeMap<Exit, ExitTotal>,
    total: f64,
    norms: GradientNorms,
    learning_rate: f64,
}

impl Trainer {
    /// A trainer at step 0. Adds heads of the intermediate exits for
    /// [`Method::Ict`](crate::Method::Ict), blocks for [`Method::Balcony`](crate::Method::Balcony),
    /// and an adapter for [`Lora`](crate::Lora), unless the model already has them.
    ///
    /// # Errors
    /// When settings or exits do not fit the model.
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
            replicas: Replicas::alone(model),
            optimizer,
            settings,
            schedule: WeightSchedule(schedule),
            steps_done,
            canary: None,
        })
    }

    /// Uses a custom loss schedule. [`TrainSettings::loss_schedule`] must name it, so that a run
    /// records it and is not resumed without it.
    ///
    /// # Errors
    /// When the settings do not name a schedule.
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

    /// Computes a share of every step's micro-batches on `further` devices, and updates a share of
    /// the parameters there. Accumulate at least as many micro-batches as there are devices.
    /// Results equal those of one device up to rounding.
    ///
    /// # Errors
    /// When a device does not support the number type of the weights, or fails.
    pub fn with_devices(mut self, further: Vec<Device>) -> Result<Self, Error> {
        let weights = self.settings.dtype;
        further
            .iter()
            .try_for_each(|device| check_supported(weights, device))?;
        self.replicas = self.replicas.with_devices(&further)?;
        let replicas = &self.replicas;
        self.optimizer.place(|name| replicas.device_of_owner(name));
        Ok(self)
    }

    /// Compares the device with the CPU before this trainer's first step and before every step
    /// divisible by `every`: the losses and the gradient of one row. Requires the feature `flex`.
    pub fn with_canary(mut self, every: u64) -> Self {
        self.canary = Some(Canary::new(every));
        self
    }

    /// The model in training.
    pub fn model(&self) -> &Llama {
        self.replicas.model()
    }

    /// The model without autodiff, in f32 and with an adapter merged, for evaluation and saving.
    pub fn trained(&self) -> Llama {
        self.snapshot().merged()
    }

    /// The model without autodiff, in f32 and with an adapter unmerged.
    pub(crate) fn snapshot(&self) -> Llama {
        self.model().valid().with_weights(DType::F32)
    }

    /// The settings of the run.
    pub fn settings(&self) -> &TrainSettings {
        &self.settings
    }

    /// Optimizer steps done so far.
    pub fn steps_done(&self) -> u64 {
        self.steps_done
    }

    /// Checks that the model can be written: it was not lost, and its weights are finite.
    pub(crate) fn check_weights(&self) -> Result<(), Error> {
        let (step, checkpoint) = (self.steps_done, None);
        self.replicas.check()?;
        match not_finite(self.model()) {
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
    /// When the stream fails, no token is supervised, or a loss or gradient is not finite; the
    /// model is then unchanged. [`Error::DeviceLost`] when a device fails, [`Error::OutOfMemory`]
    /// when it has too little memory; the model may then be lost, but the last checkpoint is not.
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
        self.replicas.check()?;
        let home = self.model().device();
        let moved = guarded(&home, || {
            let moved = self.moved(&batches, supervised)?;
            // Waits for the devices, so that the reported time covers all work.
            self.replicas.sync()?;
            Ok(moved)
        })?;
        self.steps_done = step;

        let tokens: usize = batches.iter().flat_map(Batch::lengths).sum();
        let seconds = started.elapsed().as_secs_f64();
        let method = &self.settings.method;
        let distils = method.distillation().is_some();
        let (norms, beside) = (moved.norms, method.trains_body_beside_exits());
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
            gradient_norm: if beside { norms.model } else { norms.total() },
            exit_gradient_norm: beside.then_some(norms.exits),
            tokens: tokens as u64,
            supervised_tokens: supervised as u64,
            seconds,
            tokens_per_second: tokens as f64 / seconds,
        })
    }

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
        let (replicas, settings) = (&self.replicas, &self.settings);
        if let Some(canary) = &mut self.canary {
            canary.watch(replicas, &jobs, settings)?;
        }
        let found = accumulate(replicas, &jobs, settings, supervised as f64)?;
        let norms = found
            .gradient_norms()
            .map_err(|tensor| self.bad_gradient(step, tensor, &found.losses))?;
        let learning_rate = self.settings.schedule.rate(step, self.settings.steps);
        let (replicas, optimizer) = (&mut self.replicas, &mut self.optimizer);
        replicas.update(found.gradients, |model, gradients| {
            optimizer.step(model, gradients, norms, learning_rate)
        })?;
        Ok(StepOutcome {
            losses: found.losses,
            total: found.total,
            norms,
            learning_rate,
        })
    }

    /// The weights of the exits for a micro-batch, checked since a custom schedule may be wrong.
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
        // Separate exits have weights of their own beside the model's 1.
        if !self.settings.method.trains_body_beside_exits() {
            check_weights(&weights)?;
        }
        Ok(weights)
    }

    fn bad_gradient(&self, step: u64, tensor: String, losses: &BTreeMap<Exit, ExitTotal>) -> Error {
        // Sums over the targets, not means.
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

    /// Mean loss of every exit over `batches`.
    ///
    /// # Errors
    /// When a batch does not fit the model, there is nothing to predict, or a loss is not finite.
    pub fn validate(&self, batches: &[Batch]) -> Result<Vec<ExitLoss>, Error> {
        // The adapter is not merged, which would hold all adapted weights twice.
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
