//! Sums of losses and gradients over the micro-batches of a step, on one or several devices.

use std::collections::BTreeMap;

use soft_core::{Batch, Exit, MicroBatch};

use crate::device_errors::{failed, guarded};
use crate::error::Error;
use crate::model::llama::Llama;
use crate::ops::transfers::{Numbers, moved, read_all};
use crate::train::combination::Apart;
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
    /// Those of the intermediate exits, if they are computed apart.
    early: NamedGradients,
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
    let nothing = || replicas.models().iter().map(|_| Default::default());
    let mut apart = Apart {
        full: nothing().collect(),
        early: nothing().collect(),
    };
    for (part, model) in parts.into_iter().zip(replicas.models()) {
        guarded(&model.device(), || {
            losses.extend(part.losses.into_iter().map(|sums| sums.moved_to(&home)));
            to_owners(part.gradients, &mut apart.full, replicas);
            to_owners(part.early, &mut apart.early, replicas);
            Ok(())
        })?;
    }
    let combination = settings.method.balance().combination;
    let gradients = apart.combined(combination, settings.optimizer.clip_norm, replicas)?;
    let step = jobs.first().map_or(0, |job| job.at.step);
    Accumulated::read(losses, gradients, (replicas, step))
}

fn to_owners(gradients: NamedGradients, owned: &mut [NamedGradients], replicas: &Replicas) {
    for (name, gradient) in gradients.into_named() {
        let gradient = moved(gradient, &replicas.device_of_owner(&name));
        owned[replicas.owner(&name)].add(name, gradient);
    }
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
        let balance = settings.method.balance();
        let (weights, early) = balance.combination.passes(&job.weights);
        let weighing = LossTerms {
            exits: &settings.exits,
            weights: &weights,
            normalizer,
            distillation: settings.method.distillation(),
            gradient_limit: balance.limit,
            full_depth_head: settings.method.trains_body_beside_exits(),
            recompute: settings.gradient_checkpointing,
            skipping: dropout.map(|dropout| Skipping { dropout, at }),
        };
        let objective = settings.objective;
        let early = LossTerms {
            weights: &early,
            ..weighing
        };
        let sums = [(weighing, &mut self.gradients), (early, &mut self.early)];
        for (weighing, gradients) in sums {
            if weighing.weights.iter().any(|weight| *weight != 0.0) {
                let losses = objective.differentiate(model, job.batch, weighing, gradients)?;
                self.losses.extend(losses);
            }
        }
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

#[cfg(all(test, feature = "flex"))]
mod tests {
    #![allow(clippy::unwrap_used)] // tests fail by panicking

    use soft_core::Example;

    use super::*;
    use crate::device::device;
    use crate::train::balance::Balance;
    use crate::train::combination::Combination;
    use crate::train::method::{Method, SoftOptions};

    fn values(found: Accumulated) -> BTreeMap<String, Vec<f32>> {
        let owned = found.gradients.into_iter();
        let named = owned.flat_map(NamedGradients::into_named);
        let read = |gradient: burn::tensor::Tensor<1>| gradient.into_data().try_to_vec().unwrap();
        named
            .map(|(name, gradient)| (name, read(gradient)))
            .collect()
    }

    /// Beside the formulas on gradients of the full depth alone and of the exits alone.
    #[test]
    fn gradients_are_combined_over_all_micro_batches() {
        let config = crate::tests::laws::config(2, 2, true);
        let model = Llama::random(config, 7, &device("cpu").unwrap()).unwrap();
        let replicas = Replicas::alone(burn::module::Module::train(model));
        let rows = [3u32, 5, 7].map(|by| Example::text((1..6).map(|at| at * by % 11).collect()));
        let batches = rows.map(|row| Batch::from_examples(&[&row]).unwrap());
        let gradients = |weights: [f64; 2], combination| {
            let balance = Balance {
                combination,
                ..Balance::default()
            };
            let method = Method::Soft(SoftOptions {
                balance,
                ..SoftOptions::default()
            });
            let mut settings = TrainSettings::new(method, "1,2".parse().unwrap(), 9);
            settings.optimizer.clip_norm = Some(0.5);
            let jobs = (0..).zip(&batches).map(|(index, batch)| Job {
                at: MicroBatch { step: 1, index },
                batch,
                weights: weights.to_vec(),
            });
            let jobs: Vec<_> = jobs.collect();
            let found = accumulate(&replicas, &jobs, &settings, 12.0).unwrap();
            assert!(found.losses.values().all(|total| total.supervised == 12));
            values(found)
        };
        // The exit against its own loss, so that the two gradients conflict.
        for weight in [0.5, -0.5] {
            let full = gradients([0.0, 0.5], Combination::Sum);
            let early = gradients([weight, 0.0], Combination::Sum);
            let dot = |a: &BTreeMap<String, Vec<f32>>, b: &BTreeMap<String, Vec<f32>>| -> f64 {
                let pairs = a.iter().filter_map(|(name, a)| Some((a, b.get(name)?)));
                let products = pairs.flat_map(|(a, b)| a.iter().zip(b));
                products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
            };
            let (ff, ee, fe) = (dot(&full, &full), dot(&early, &early), dot(&full, &early));
            assert_eq!(fe < 0.0, weight < 0.0, "{fe}");
            let clipped = |square: f64| (0.5 / square.sqrt()).min(1.0);
            for (combination, (a, b)) in [
                (Combination::Sum, (1.0, 1.0)),
                (Combination::ClipApart, (clipped(ff), clipped(ee))),
                (Combination::Project, (1.0 - fe.min(0.0) / ff, 1.0)),
            ] {
                let found = gradients([weight, 0.5], combination);
                for (name, found) in &found {
                    let none = vec![0.0; found.len()];
                    let of =
                        |all: &BTreeMap<String, Vec<f32>>| all.get(name).unwrap_or(&none).clone();
                    for ((found, f), e) in found.iter().zip(of(&full)).zip(of(&early)) {
                        let expected = a * f64::from(f) + b * f64::from(e);
                        let apart = (f64::from(*found) - expected).abs();
                        assert!(apart < 1e-5, "{combination:?} {name}: {found} {expected}");
                    }
                }
            }
        }
    }
}
