//! Sums of losses and gradients over the micro-batches of a step, on one or several devices.

use std::collections::BTreeMap;

use soft_core::{Batch, Exit, MicroBatch};

use crate::device_errors::{failed, guarded};
use crate::error::Error;
use crate::model::llama::Llama;
use crate::ops::transfers::{Numbers, moved, read_all};
use crate::train::exit_sums::{UnreadSums, read_sums};
use crate::train::gradients::{GradientNorms, NamedGradients};
use crate::train::objective::LossTerms;
use crate::train::replicas::Replicas;
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
    /// The gradients of the parameters of every owner, on its device.
    pub gradients: Vec<NamedGradients>,
    /// The squared norm of each of them, in their order.
    squares: Vec<Vec<f64>>,
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

/// Summed losses and gradients of `jobs`, computed on all devices. Gradients and the differentiated
/// loss are divided by `normalizer`.
///
/// # Errors
/// When a batch does not fit the model, a loss is not finite, or a device fails.
pub(crate) fn accumulate(
    replicas: &Replicas,
    jobs: &[Job],
    settings: &TrainSettings,
    normalizer: f64,
) -> Result<Accumulated, Error> {
    let parts = replicas.spread(jobs, |model, jobs| {
        let mut sum = Unread::default();
        for job in jobs {
            sum.add_micro_batch(model, job, settings, normalizer)?;
        }
        Ok(sum)
    })?;
    let home = replicas.model().device().inner();
    let mut losses = Vec::new();
    let mut gradients: Vec<_> = replicas
        .models()
        .iter()
        .map(|_| Default::default())
        .collect();
    for (part, model) in parts.into_iter().zip(replicas.models()) {
        guarded(&model.device(), || {
            losses.extend(part.losses.into_iter().map(|sums| sums.moved_to(&home)));
            for (name, gradient) in part.gradients.into_named() {
                let owner: &mut NamedGradients = &mut gradients[replicas.owner(&name)];
                let gradient = moved(gradient, &replicas.device_of_owner(&name));
                owner.add(name, gradient);
            }
            Ok(())
        })?;
    }
    let step = jobs.first().map_or(0, |job| job.at.step);
    Accumulated::read(losses, gradients, (replicas, step))
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
}

impl Accumulated {
    /// Reads losses and norms, once from every device.
    fn read(
        losses: Vec<UnreadSums>,
        gradients: Vec<NamedGradients>,
        (replicas, step): (&Replicas, u64),
    ) -> Result<Self, Error> {
        let mut owned = gradients.iter().zip(replicas.models());
        let of_run = replicas.model().device();
        let (sums, first) = guarded(&of_run, || {
            let squares = owned
                .next()
                .map_or_else(Numbers::none, |(own, _)| own.squares());
            read_sums(losses, squares).map_err(|source| failed(&of_run, &source.to_string()))
        })?;
        let of_others = owned.map(|(own, model)| {
            let device = model.device();
            guarded(&device, || {
                let read = read_all(vec![own.squares()]);
                let read = read.map_err(|source| failed(&device, &source.to_string()))?;
                Ok(read.concat())
            })
        });
        let others = of_others.collect::<Result<Vec<_>, _>>()?;
        let mut losses: BTreeMap<_, ExitTotal> = BTreeMap::new();
        for sum in &sums {
            let total = losses.entry(sum.exit).or_default();
            total.nats += finite(sum.nats, sum.exit, step)?;
            total.divergence += finite(sum.divergence, sum.exit, step)?;
            total.supervised += sum.targets;
        }
        Ok(Self {
            gradients,
            squares: std::iter::once(first).chain(others).collect(),
            losses,
            total: sums.iter().map(|sum| sum.weighed).sum(),
        })
    }

    /// The norms of the gradients; as an error, the name of the first that is not finite.
    pub fn gradient_norms(&self) -> Result<GradientNorms, String> {
        let parts = self.gradients.iter().zip(&self.squares);
        GradientNorms::of(parts.flat_map(|(own, squares)| own.with_squares(squares)))
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
