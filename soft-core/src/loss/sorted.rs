//! The sorted loss: one pass through the model, the losses of several of its depths.
//!
//! Source: Sorted LLaMA (arXiv 2309.08968), equation 1: the plain mean over the exits of the
//! next-token cross-entropy on the response tokens. Its prose says "summation"; formula and the
//! authors' code divide by the number of exits, and so do we.

use crate::exit::{Exit, Exits};
use crate::model::nested::TrainModel;

/// Which micro-batch of a run: what a schedule of the loss may depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MicroBatch {
    /// The optimizer step, counted from 1.
    pub step: u64,
    /// Its number within the step, counted from 0.
    pub index: u64,
}

impl MicroBatch {
    /// The first one of `step`.
    pub fn of_step(step: u64) -> Self {
        Self { step, index: 0 }
    }
}

/// How much each exit counts in the loss, a pure function of exits and place in the run, so that a
/// resumed run continues as it would have.
pub trait LossSchedule {
    /// One weight per exit, none negative, summing to 1. An exit of weight 0 is left out: its head
    /// is not applied and blocks beyond the last exit that counts are not run.
    fn weights(&self, exits: &Exits, at: MicroBatch) -> Vec<f64>;
}

/// What one pass of the sorted loss yields.
#[derive(Clone, Debug)]
pub struct SortedLossOutput<Loss> {
    /// Σ weight · loss / normalizer: what is differentiated.
    pub total: Loss,
    /// Summed cross-entropy in nats at each exit whose weight is not zero, shallowest first.
    pub per_exit: Vec<(Exit, Loss)>,
}

/// One forward pass through `exits` and the weighted loss of all of them.
///
/// `weights` holds one weight per exit ([`LossSchedule::weights`]); exits of weight 0 are skipped.
/// `normalizer` is the number of supervised tokens of the whole optimizer batch, all its
/// micro-batches together, so that accumulated gradients are those of one large batch. The model
/// is run once, never once per exit.
///
/// # Errors
/// As the model's own.
///
/// # Panics
/// When there is not one weight per exit, or all weights are zero: mistakes of the caller's code,
/// not of its input.
pub fn sorted_loss<M: TrainModel>(
    model: &M,
    (tokens, targets): (&M::Tokens, &M::Targets),
    exits: &Exits,
    weights: &[f64],
    normalizer: f64,
) -> Result<SortedLossOutput<M::Loss>, M::Error> {
    assert_eq!(weights.len(), exits.len(), "one weight per exit");
    let mut per_exit = Vec::new();
    let mut terms = Vec::new();
    exits.walk(
        model.embed(tokens)?,
        |index| weights[index] != 0.0,
        |hidden, range| model.blocks(hidden, range, None),
        |stop, hidden| {
            let loss = model.loss(hidden, stop.exit, targets)?;
            terms.push((weights[stop.index] / normalizer, loss.clone()));
            per_exit.push((stop.exit, loss));
            Ok(())
        },
    )?;
    assert!(!terms.is_empty(), "at least one exit has a weight");
    Ok(SortedLossOutput {
        total: model.weighted_sum(&terms)?,
        per_exit,
    })
}
