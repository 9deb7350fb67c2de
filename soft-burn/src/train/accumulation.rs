//! Sums of losses and gradients over the micro-batches of a step, on one or several devices.

use std::collections::BTreeMap;

use burn::tensor::Device;
use soft_core::{Batch, Exit, MicroBatch};

use crate::error::Error;
use crate::model::llama::Llama;
use crate::ops::head::unreadable;
use crate::train::devices::spread;
use crate::train::exit_sums::{UnreadSums, read_sums};
use crate::train::objective::LossTerms;
use crate::train::optimizer::NamedGradients;
use crate::train::settings::TrainSettings;
use crate::train::training_pass::Skipping;

pub(crate) struct Job<'a> {
    pub at: MicroBatch,
    pub batch: &'a Batch,
    /// One weight per exit.
    pub weights: Vec<f64>,
}

/// Gradients and losses of some micro-batches.
#[derive(Default)]
struct Unread {
    gradients: NamedGradients,
    losses: Vec<UnreadSums>,
}

pub(crate) struct Accumulated {
    pub gradients: NamedGradients,
    /// The squared norm of each of them, in their order.
    squares: Vec<f64>,
    /// Sums of each exit that had a weight in a micro-batch.
    pub losses: BTreeMap<Exit, ExitTotal>,
    /// The loss that was differentiated.
    pub total: f64,
}

/// Sums over the micro-batches in which an exit had a weight.
#[derive(Clone, Copy, Default)]
pub(crate) struct ExitTotal {
    pub nats: f64,
    pub divergence: f64,
    pub supervised: usize,
}

/// Summed losses and gradients of `jobs`, computed on the model's device and on `further` devices.
/// Gradients and the differentiated loss are divided by `normalizer`.
///
/// # Errors
/// When a batch does not fit the model, a loss is not finite, or a device fails.
pub(crate) fn accumulate(
    model: &Llama,
    further: &[Device],
    jobs: &[Job],
    settings: &TrainSettings,
    normalizer: f64,
) -> Result<Accumulated, Error> {
    let parts = spread(model, further, jobs, |model, jobs| {
        let mut sum = Unread::default();
        for job in jobs {
            sum.add_micro_batch(model, job, settings, normalizer)?;
        }
        Ok(sum)
    })?;
    let home = model.device().inner();
    let sum = parts
        .into_iter()
        .reduce(|sum, part| sum.joined(part, &home));
    let step = jobs.first().map_or(0, |job| job.at.step);
    sum.unwrap_or_default().read(step)
}

impl Unread {
    fn add_micro_batch(
        &mut self,
        model: &Llama,
        job: &Job,
        settings: &TrainSettings,
        normalizer: f64,
    ) -> Result<(), Error> {
        let at = job.at;
        let body = settings.method.body();
        let dropout = body.and_then(|body| body.layer_dropout);
        let weighing = LossTerms {
            exits: &settings.exits,
            weights: &job.weights,
            normalizer,
            distillation: settings.method.distillation(),
            balance: settings.method.balance_at(at.step),
            recompute: settings.gradient_checkpointing,
            skipping: dropout.map(|dropout| Skipping { dropout, at }),
        };
        let objective = settings.objective;
        let losses = objective.differentiate(model, job.batch, weighing, &mut self.gradients)?;
        self.losses.extend(losses);
        Ok(())
    }

    /// Adds the results of another device, which move to `home`.
    fn joined(mut self, other: Self, home: &Device) -> Self {
        self.gradients.add_from(other.gradients, home);
        let losses = other.losses.into_iter();
        self.losses.extend(losses.map(|sums| sums.to_device(home)));
        self
    }

    /// Reads losses and norms from the device.
    fn read(self, step: u64) -> Result<Accumulated, Error> {
        let squares = self.gradients.squares();
        let (sums, squares) = read_sums(self.losses, squares).map_err(unreadable)?;
        let mut losses: BTreeMap<_, ExitTotal> = BTreeMap::new();
        for sum in &sums {
            let total = losses.entry(sum.exit).or_default();
            total.nats += finite(sum.nats, sum.exit, step)?;
            total.divergence += finite(sum.divergence, sum.exit, step)?;
            total.supervised += sum.targets;
        }
        Ok(Accumulated {
            gradients: self.gradients,
            squares,
            losses,
            total: sums.iter().map(|sum| sum.weighed).sum(),
        })
    }
}

impl Accumulated {
    /// The global L2 norm of the gradients; as an error, the name of the first that is not finite.
    pub fn gradient_norm(&self) -> Result<f64, String> {
        self.gradients.norm_from(&self.squares)
    }
}

pub(crate) fn finite(loss: f64, exit: Exit, step: u64) -> Result<f64, Error> {
    if loss.is_finite() {
        return Ok(loss);
    }
    let (exit, value, checkpoint) = (exit.depth(), loss, None);
    Err(Error::LossNotFinite {
        step,
        exit,
        value,
        checkpoint,
    })
}
