//! Losses at the exits and the gradients of their weighted sum.
//!
//! Two implementations agree up to rounding. The plain one is soft-core's `sorted_loss` with one
//! backward pass; it holds the logits of all exits until then. The memory-flat one differentiates
//! norm and heads separately, a few positions at a time, keeps only the gradient of each exit with
//! respect to its hidden states, and propagates these through the blocks in one backward pass. Its
//! memory hardly grows with the number of exits, and the gradient of each exit can be limited
//! ([`Balance`](crate::Balance)).

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::Tensor;
use soft_core::{Batch, BatchModel, Exit, Exits, sorted_loss};

use crate::device_errors::failed;
use crate::error::Error;
use crate::model::llama::Llama;
use crate::model::parameters::{flat_gradient, named_gradients};
use crate::ops::head_loss::head_gradients;
use crate::ops::head_loss::terms::{Predictions, Teacher, Term};
use crate::ops::seed::seed;
use crate::ops::transfers::Numbers;
use crate::train::balance::{ExitGradient, factors, norms_of};
use crate::train::exit_sums::UnreadSums;
use crate::train::gradients::NamedGradients;
use crate::train::method::Distillation;
use crate::train::recomputation::{Learns, Recomputation, StateGradient};
use crate::train::settings::Objective;
use crate::train::targets::Targets;
use crate::train::training_pass::{Skipping, TrainingPass};

/// Weights of the exits, options of the loss, and the divisor of sums.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LossTerms<'a> {
    pub exits: &'a Exits,
    /// One weight per exit.
    pub weights: &'a [f64],
    /// Number of supervised tokens of the optimizer batch.
    pub normalizer: f64,
    pub distillation: Option<Distillation>,
    /// As in [`Balance`](crate::train::balance::Balance).
    pub gradient_limit: Option<f64>,
    /// Whether only the full depth trains the final norm and the shared head.
    pub full_depth_head: bool,
    /// Layer dropout, if any.
    pub skipping: Option<Skipping>,
    /// Gradient checkpointing.
    pub recompute: bool,
}

impl LossTerms<'_> {
    fn weight(&self, exit: Exit) -> f64 {
        let weights = self.exits.iter().zip(self.weights);
        weights
            .filter(|(other, _)| *other == exit)
            .map(|(_, weight)| weight)
            .sum()
    }

    /// Whether the loss at `exit` trains the final norm and the shared head.
    fn trains_head(&self, exit: Exit) -> bool {
        !self.full_depth_head || exit == self.exits.last()
    }

    /// The loss factors of `exit`. The full depth is trained on the targets only.
    fn term(&self, exit: Exit) -> Term {
        let weight = self.weight(exit) / self.normalizer;
        let distillation = self.distillation.filter(|_| exit != self.exits.last());
        let (hard, soft) = distillation.map_or((1.0, 0.0), |distillation| {
            (1.0 - distillation.share, distillation.share)
        });
        Term {
            hard: (weight * hard) as f32,
            soft: (weight * soft) as f32,
        }
    }

    /// The factors of the sums of `exit` in the differentiated loss.
    fn factors(&self, exit: Exit) -> (Exit, Term) {
        let temperature = self.distillation.map_or(1.0, |it| it.temperature) as f32;
        let Term { hard, soft } = self.term(exit);
        let soft = soft * temperature * temperature;
        (exit, Term { hard, soft })
    }
}

impl Objective {
    /// Adds the gradients of a micro-batch; returns the losses of the exits that have a weight.
    pub(crate) fn differentiate(
        self,
        model: &Llama,
        batch: &Batch,
        weighing: LossTerms,
        gradients: &mut NamedGradients,
    ) -> Result<Vec<UnreadSums>, Error> {
        match self {
            Self::Plain => plain(model, batch, weighing, gradients),
            Self::Flat => flat(model, batch, weighing, gradients),
        }
    }
}

fn plain(
    model: &Llama,
    batch: &Batch,
    weighing: LossTerms,
    gradients: &mut NamedGradients,
) -> Result<Vec<UnreadSums>, Error> {
    let LossTerms {
        exits,
        weights,
        normalizer,
        ..
    } = weighing;
    let (tokens, targets) = model.prepare(batch)?;
    let output = sorted_loss(model, (&tokens, &targets), exits, weights, normalizer)?;
    gradients.add_all(named_gradients(model, &mut output.total.backward()));
    let losses = output.per_exit.into_iter();
    let losses = losses.map(|(exit, loss)| UnreadSums {
        exits: vec![weighing.factors(exit)],
        nats: Numbers::Unread(loss.inner()),
        divergence: Numbers::none(),
        targets: batch.supervised_tokens(),
    });
    Ok(losses.collect())
}

fn flat(
    model: &Llama,
    batch: &Batch,
    weighing: LossTerms,
    gradients: &mut NamedGradients,
) -> Result<Vec<UnreadSums>, Error> {
    let (pass, embedded) = TrainingPass::new(model, batch, weighing.skipping)?;
    // Without autodiff, when activations are recomputed.
    let forward = weighing.recompute.then(|| model.valid());
    let forward = forward.as_ref();
    let recomputation = forward.map(|it| Recomputation::new(it, batch, weighing.skipping));
    let mut recomputation = recomputation.transpose()?;
    let reached = reached(
        model,
        (&pass, embedded.clone()),
        weighing,
        recomputation.as_mut(),
    )?;
    let teacher = weighing.distillation.and_then(|distillation| {
        let full = reached.iter().find(|at| at.exit == weighing.exits.last())?;
        Some(Teacher {
            states: full.normed.clone().inner(),
            weight: model.head_weight().inner(),
            temperature: distillation.temperature,
        })
    });
    let mut losses = Vec::new();
    let mut sent = Vec::new();
    for (used, group) in by_head(model, reached, weighing) {
        let found = through_head(
            model,
            (used, &group),
            (&pass.targets, teacher.clone()),
            weighing,
            gradients,
        );
        losses.push(found.losses);
        sent.extend(group.into_iter().zip(found.states));
    }
    let sent = through_norm(model, sent, weighing, gradients)?;
    if let Some(recomputation) = recomputation {
        recomputation.backward(model, (&pass, embedded), sent, gradients);
    } else if let Some(surrogate) = surrogate(sent) {
        gradients.add_all(named_gradients(model, &mut surrogate.backward()));
    }
    Ok(losses)
}

/// A loss with these gradients with respect to the states of the exits.
fn surrogate(sent: Vec<StateGradient>) -> Option<Tensor<1>> {
    let terms = sent.into_iter().map(|at| seed(at.hidden, at.gradient));
    terms.reduce(|sum, term| sum + term)
}

/// The supervised states at one exit.
struct Reached {
    exit: Exit,
    /// All states, `[states, d_model]`, when the graph starts there.
    states: Option<Tensor<2>>,
    /// `[n, d_model]`, connected to the graph of the blocks or to `states`.
    hidden: Tensor<2>,
    /// The same, detached: the graph of the norm starts here.
    leaf: Tensor<2>,
    /// After the norm, connected to `leaf`.
    normed: Tensor<2>,
}

/// Runs the blocks once; keeps the states of exits with a weight and of the teacher.
fn reached(
    model: &Llama,
    (pass, embedded): (&TrainingPass, Tensor<2>),
    weighing: LossTerms,
    mut recomputation: Option<&mut Recomputation>,
) -> Result<Vec<Reached>, Error> {
    let LossTerms { exits, weights, .. } = weighing;
    let used = |index: usize| {
        let teaches = weighing.distillation.is_some() && index + 1 == exits.len();
        weights[index] != 0.0 || teaches
    };
    let mut reached = Vec::new();
    let learns = recomputation.is_some().then(|| Learns::of(model));
    let start = match learns {
        Some(_) => embedded.inner(),
        None => embedded,
    };
    exits.walk(
        start,
        used,
        |states, range| {
            Ok::<_, Error>(match &mut recomputation {
                Some(recomputation) => recomputation.blocks(states, range),
                None => pass.blocks(states, range),
            })
        },
        |stop, states| {
            let start = learns.as_ref().map(|learns| {
                let learns = learns.below(stop.exit.depth());
                Tensor::from_inner(states.clone()).set_require_grad(learns)
            });
            let hidden = pass.at_exit(start.as_ref().unwrap_or(states), stop.exit);
            let leaf = hidden
                .clone()
                .detach()
                .set_require_grad(hidden.is_tracked());
            let norm = model.norm_of(stop.exit);
            reached.push(Reached {
                exit: stop.exit,
                states: start,
                normed: norm.forward(leaf.clone()),
                hidden,
                leaf,
            });
            Ok(())
        },
    )?;
    Ok(reached)
}

/// A head, and whether a group of exits trains it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct HeadUse {
    /// An exit's own head; `None` for the shared one.
    head: Option<usize>,
    trained: bool,
}

/// The exits with a weight, grouped by head and by whether they train it. Exits that do not train
/// it are a group of their own, so that the gradient of the others does not depend on them, not
/// even in its rounding.
fn by_head(
    model: &Llama,
    reached: Vec<Reached>,
    weighing: LossTerms,
) -> BTreeMap<HeadUse, Vec<Reached>> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for at in reached {
        if weighing.weight(at.exit) != 0.0 {
            let head = model.exit_heads.index(at.exit);
            let trained = head.is_some() || weighing.trains_head(at.exit);
            let used = HeadUse { head, trained };
            groups.entry(used).or_default().push(at);
        }
    }
    groups
}

struct ThroughHead {
    losses: UnreadSums,
    /// Gradient with respect to each exit's normalized states, `[n, d_model]`.
    states: Vec<Tensor<2>>,
}

/// Losses of the exits of one head and gradients of their states; adds the head's gradient.
fn through_head(
    model: &Llama,
    (used, group): (HeadUse, &[Reached]),
    (targets, teacher): (&Targets, Option<Teacher>),
    weighing: LossTerms,
    gradients: &mut NamedGradients,
) -> ThroughHead {
    let (n, exits) = (targets.len(), group.len());
    let normed = group.iter().map(|at| at.normed.clone().inner()).collect();
    let states = Tensor::stack::<3>(normed, 1);
    let d_model = states.dims()[2];
    let (name, weight) = model.head_parameter(used.head);
    let terms: Vec<_> = group.iter().map(|at| weighing.term(at.exit)).collect();
    let found = head_gradients(
        Predictions {
            states: states.reshape([n * exits, d_model]),
            tokens: targets.tokens().inner(),
            teacher: teacher.filter(|_| terms.iter().any(|term| term.soft != 0.0)),
            terms,
        },
        weight.clone().inner(),
        used.trained && weight.is_require_grad(),
    );
    if let Some(gradient) = found.weight {
        gradients.add(name, flat_gradient(gradient));
    }
    let by_exit = found.states.reshape([n, exits, d_model]);
    ThroughHead {
        losses: UnreadSums {
            exits: group.iter().map(|at| weighing.factors(at.exit)).collect(),
            nats: found.nats,
            divergence: found.divergence,
            targets: n,
        },
        states: (0..exits)
            .map(|exit| by_exit.clone().narrow(1, exit, 1).reshape([n, d_model]))
            .collect(),
    }
}

/// Propagates the gradients of the normalized states through the norm, whose gradient is added.
/// Returns those with respect to the hidden states, where anything below the norm is trained.
fn through_norm(
    model: &Llama,
    sent: Vec<(Reached, Tensor<2>)>,
    weighing: LossTerms,
    gradients: &mut NamedGradients,
) -> Result<Vec<StateGradient>, Error> {
    let mut into = Vec::new();
    for (at, gradient) in sent {
        if !at.normed.is_tracked() {
            continue;
        }
        let mut found = seed(at.normed, gradient).backward();
        let (name, norm) = (model.norm_name(at.exit), model.norm_of(at.exit));
        let into_norm = norm.weight.val().grad_remove(&mut found);
        let into_hidden = at.leaf.grad_remove(&mut found);
        into.push((
            at.exit,
            (at.hidden, at.states),
            into_hidden,
            into_norm.map(|it| (name, it)),
        ));
    }
    let full = weighing.exits.last();
    let factors = match weighing.gradient_limit {
        None => vec![1.0; into.len()],
        Some(limit) => {
            let gradients = into
                .iter()
                .filter_map(|(_, _, into_hidden, _)| into_hidden.clone());
            let norms = norms_of(gradients.collect())
                .map_err(|source| failed(&model.device(), &source.to_string()))?;
            let mut norms = norms.into_iter();
            let sent = into.iter().map(|(exit, _, into_hidden, _)| ExitGradient {
                exit: *exit,
                norm: into_hidden
                    .as_ref()
                    .and_then(|_| norms.next())
                    .unwrap_or(0.0),
                weight: weighing.weight(*exit),
            });
            factors(&sent.collect::<Vec<_>>(), full, limit)
        }
    };
    let mut sent = Vec::new();
    for ((exit, (hidden, states), into_hidden, into_norm), factor) in into.into_iter().zip(factors)
    {
        let own = model.exit_blocks.get(exit).is_some();
        if let Some((name, gradient)) = into_norm
            && (own || weighing.trains_head(exit))
        {
            gradients.add(name, flat_gradient(gradient).mul_scalar(factor));
        }
        if let Some(gradient) = into_hidden {
            sent.push(StateGradient {
                exit,
                hidden,
                gradient: gradient.mul_scalar(factor),
                states,
            });
        }
    }
    Ok(sent)
}

#[cfg(all(test, feature = "flex"))]
mod tests;
