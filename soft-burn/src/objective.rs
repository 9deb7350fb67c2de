//! Losses at the exits and the gradients of their weighted sum.
//!
//! Two ways that agree to rounding. The plain one is soft-core's `sorted_loss` and one backward pass, the equations as they
//! stand: the logits of all exits are held until that pass. The memory-flat one differentiates norm and heads by
//! themselves, a few states at a time, keeps of every exit only the gradient into its normed states, and sends those
//! through the blocks in one backward pass: its memory hardly grows with the number of exits.

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};
use soft_core::{Batch, Exit, Exits, NestedModel, TrainModel, sorted_loss};

use crate::head_loss::{Predictions, head_gradients};
use crate::optimizer::NamedGradients;
use crate::parameters::named_gradients;
use crate::{Error, Llama, Targets};

/// How the sorted loss is differentiated; both ways agree to rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// Memory-flat: the head's part by itself, in chunks.
    #[default]
    Flat,
    /// One graph over all exits: for comparison, and to read.
    Plain,
}

/// How much each exit counts, and what sums are divided by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weighing<'a> {
    pub exits: &'a Exits,
    /// One weight per exit.
    pub weights: &'a [f64],
    /// Supervised tokens of the optimiser batch.
    pub normaliser: f64,
}

impl Weighing<'_> {
    /// Σ weight · loss, of losses summed over the targets of the whole optimiser batch.
    pub fn total(&self, losses: &[(Exit, f64)]) -> f64 {
        let weighed = losses.iter().map(|(exit, loss)| {
            let weights = self.exits.iter().zip(self.weights);
            let weight = weights
                .filter(|(other, _)| other == exit)
                .map(|(_, weight)| weight);
            weight.sum::<f64>() * loss
        });
        weighed.sum::<f64>() / self.normaliser
    }
}

impl Objective {
    /// Adds the gradients of one micro-batch's weighted losses; returns the cross-entropy in nats at each exit that counts,
    /// summed over the targets.
    pub(crate) fn differentiate(
        self,
        model: &Llama,
        batch: &Batch,
        weighing: Weighing,
        gradients: &mut NamedGradients,
    ) -> Result<Vec<(Exit, f64)>, Error> {
        match self {
            Self::Plain => plain(model, batch, weighing, gradients),
            Self::Flat => flat(model, batch, weighing, gradients),
        }
    }
}

fn plain(
    model: &Llama,
    batch: &Batch,
    weighing: Weighing,
    gradients: &mut NamedGradients,
) -> Result<Vec<(Exit, f64)>, Error> {
    let Weighing {
        exits,
        weights,
        normaliser,
    } = weighing;
    let (tokens, targets) = model.prepare(batch)?;
    let output = sorted_loss(model, (&tokens, &targets), exits, weights, normaliser)?;
    gradients.add_all(named_gradients(model, &mut output.total.backward()));
    let losses = output.per_exit.into_iter();
    let losses = losses.map(|(exit, loss)| (exit, loss.inner().into_scalar::<f32>().into()));
    Ok(losses.collect())
}

/// The supervised states at one exit, after the norm.
struct Reached {
    exit: Exit,
    /// `[n, d_model]`, connected to the graph of the blocks.
    normed: Tensor<2>,
    /// Weight of the exit over the normaliser.
    scale: f64,
}

fn flat(
    model: &Llama,
    batch: &Batch,
    weighing: Weighing,
    gradients: &mut NamedGradients,
) -> Result<Vec<(Exit, f64)>, Error> {
    let (tokens, targets) = model.prepare(batch)?;
    let reached = reached(model, model.embed(&tokens)?, &targets, weighing)?;
    let mut losses = Vec::new();
    let mut surrogate = Vec::new();
    for (head, group) in by_head(model, reached) {
        let (found, term) = through_head(model, head, group, &targets, gradients);
        losses.extend(found);
        surrogate.extend(term);
    }
    losses.sort_by_key(|(exit, _)| *exit);
    if let Some(surrogate) = surrogate.into_iter().reduce(Tensor::add) {
        gradients.add_all(named_gradients(model, &mut surrogate.backward()));
    }
    Ok(losses)
}

/// Runs the blocks once and keeps the normed states of every exit that counts.
fn reached(
    model: &Llama,
    mut hidden: Tensor<3>,
    targets: &Targets,
    weighing: Weighing,
) -> Result<Vec<Reached>, Error> {
    let Weighing {
        exits,
        weights,
        normaliser,
    } = weighing;
    let last = weights.iter().rposition(|&weight| weight != 0.0);
    let needed = last.map_or(0, |last| last + 1);
    let mut reached = Vec::new();
    for ((segment, exit), &weight) in exits.segments().zip(exits.iter()).zip(weights).take(needed) {
        hidden = model.blocks(hidden, segment, None)?;
        if weight != 0.0 {
            reached.push(Reached {
                exit,
                normed: model.model.norm.forward(targets.states(&hidden)),
                scale: weight / normaliser,
            });
        }
    }
    Ok(reached)
}

/// Exits that share a head go through it together: one gradient of the head, not one per exit.
fn by_head(model: &Llama, reached: Vec<Reached>) -> BTreeMap<Option<usize>, Vec<Reached>> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for at in reached {
        let head = model.exit_heads.index(at.exit);
        groups.entry(head).or_default().push(at);
    }
    groups
}

/// Losses of the exits of one head; adds the head's gradient and returns what has the states' gradients in the graph of the
/// blocks, if anything there is trained.
fn through_head(
    model: &Llama,
    head: Option<usize>,
    group: Vec<Reached>,
    targets: &Targets,
    gradients: &mut NamedGradients,
) -> (Vec<(Exit, f64)>, Option<Tensor<1>>) {
    let n = targets.len();
    let scales: Vec<f32> = group
        .iter()
        .flat_map(|at| vec![at.scale as f32; n])
        .collect();
    let exits: Vec<Exit> = group.iter().map(|at| at.exit).collect();
    let normed = Tensor::cat(group.into_iter().map(|at| at.normed).collect(), 0);
    let states = normed.clone().inner();
    let scales = TensorData::new(scales, [n * exits.len()]);
    let (name, weight) = model.head_parameter(head);
    let found = head_gradients(
        Predictions {
            tokens: targets.tokens().inner().repeat_dim(0, exits.len()),
            scales: Tensor::from_data(scales, &states.device()),
            states,
        },
        weight.clone().inner(),
        weight.is_require_grad(),
    );
    if let Some(gradient) = found.weight {
        let length = gradient.shape().num_elements();
        gradients.add(name, gradient.reshape([length]));
    }
    let sums = found.nats.reshape([exits.len(), n]).sum_dim(1);
    let sums = sums.into_data();
    let sums = sums.iter::<f32>().map(f64::from);
    let losses = exits.into_iter().zip(sums).collect();
    let term = normed
        .is_tracked()
        .then(|| (normed * Tensor::from_inner(found.states)).sum());
    (losses, term)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    #![allow(clippy::unwrap_used)] // a test's way to fail

    use burn::module::Module;
    use soft_core::Example;

    use super::*;
    use crate::parameters::{EXIT_HEADS, named_tensors};
    use crate::{LlamaConfig, RopeScaling};

    /// Shapes, tied and untied heads, with and without heads per exit, and weights, of which some are 0.
    fn model(case: usize, exits: &Exits) -> Llama {
        let config = LlamaConfig {
            vocab: 23,
            d_model: 8,
            d_feed_forward: 12,
            n_layers: 4,
            n_heads: 4,
            n_kv_heads: 1 << (case % 3),
            head_dim: 6,
            norm_eps: 1e-5,
            rope_theta: 100.0,
            rope_scaling: RopeScaling::None,
            max_positions: 64,
            tied: case.is_multiple_of(2),
            initializer_range: 0.3,
            other: serde_json::Map::new(),
        };
        let model = Llama::random(config, case as u64, &crate::device("cpu").unwrap()).unwrap();
        match case % 4 {
            3 => model.with_exit_heads(exits).unwrap().train(),
            _ => model.train(),
        }
    }

    fn batch(case: usize) -> Batch {
        let row = |row: usize| {
            let length = 3 + (case + row) % 5;
            let tokens = (0..length).map(|at| ((case * 5 + row * 7 + at * 3) % 23) as u32);
            let marks = (0..length).map(|at| at > row % 2).collect();
            Example::new(tokens.collect(), marks).unwrap()
        };
        let rows: Vec<_> = (0..1 + case % 3).map(row).collect();
        Batch::from_examples(&rows.iter().collect::<Vec<_>>(), 0).unwrap()
    }

    fn agree(case: usize, name: &str, flat: Option<Tensor<1>>, plain: Option<Tensor<1>>) {
        let (Some(flat), Some(plain)) = (&flat, &plain) else {
            let both = (flat.is_some(), plain.is_some());
            // An exit without weight reaches nothing; plain autodiff may say so by zeros.
            let left = flat.or(plain).map(|g| g.abs().max().into_scalar::<f32>());
            assert_eq!(left.unwrap_or(0.0), 0.0, "{case} {name} {both:?}");
            return;
        };
        let scale: f32 = plain.clone().abs().max().into_scalar();
        let worst: f32 = (flat.clone() - plain.clone()).abs().max().into_scalar();
        assert!(
            worst <= 1e-5 * scale,
            "case {case}, {name}: {worst} of {scale}"
        );
    }

    #[test]
    fn flat_is_plain_on_random_models() {
        let exits: Exits = "1,2,4".parse().unwrap();
        let weights = [
            [1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0],
            [0.0, 0.0, 1.0],
            [0.7, 0.0, 0.3],
            [0.2, 0.8, 0.0],
        ];
        for case in 0..24 {
            let (model, batch) = (model(case, &exits), batch(case));
            let weighing = Weighing {
                exits: &exits,
                weights: &weights[case / 6],
                normaliser: batch.supervised_tokens() as f64,
            };
            let [(flat, mut of_flat), (plain, mut of_plain)] = [Objective::Flat, Objective::Plain]
                .map(|objective| {
                    let mut gradients = NamedGradients::default();
                    let losses = objective.differentiate(&model, &batch, weighing, &mut gradients);
                    (losses.unwrap(), gradients)
                });
            assert_eq!(flat.len(), plain.len(), "case {case}");
            for ((exit, flat), (same, plain)) in flat.into_iter().zip(plain) {
                assert_eq!(exit, same);
                assert!(
                    (flat - plain).abs() <= 1e-5 * plain,
                    "case {case}, exit {exit}"
                );
            }
            let heads = (0..exits.len()).map(|index| format!("{EXIT_HEADS}{index}.weight"));
            let names = named_tensors(&model).unwrap().into_iter();
            for name in names.map(|tensor| tensor.name).chain(heads) {
                agree(case, &name, of_flat.take(&name), of_plain.take(&name));
            }
        }
    }
}
