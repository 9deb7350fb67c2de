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
