//! Sums of losses and gradients over the micro-batches of a step, on one or several devices.

use std::collections::BTreeMap;

use burn::tensor::Device;
use soft_core::{Batch, Exit, MicroBatch};

use crate::error::Error;
use crate::model::llama::Llama;
use crate::train::devices::spread;
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

#[derive(Default)]
pub(crate) struct Accumulated {
    pub gradients: NamedGradients,
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
        let mut sum = Accumulated::default();
        for job in jobs {
            sum.add_micro_batch(model, job, settings, normalizer)?;
        }
        Ok(sum)
    })?;
    let home = model.device().inner();
    let sum = parts
        .into_iter()
        .reduce(|sum, part| sum.joined(part, &home));
    Ok(sum.unwrap_or_default())
}

impl Accumulated {
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
        for loss in &losses {
            let total = self.losses.entry(loss.exit).or_default();
            total.nats += finite(loss.nats, loss.exit, at.step)?;
            total.divergence += finite(loss.divergence, loss.exit, at.step)?;
            total.supervised += job.batch.supervised_tokens();
        }
        self.total += weighing.total(&losses);
        Ok(())
    }

    /// Adds the results of another device; its gradients move to `home`.
    fn joined(mut self, other: Self, home: &Device) -> Self {
        self.gradients.add_from(other.gradients, home);
        for (exit, part) in other.losses {
            let total = self.losses.entry(exit).or_default();
            total.nats += part.nats;
            total.divergence += part.divergence;
            total.supervised += part.supervised;
        }
        self.total += other.total;
        self
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
