//! The sorted loss: the losses of several depths of a model, in one pass.
//!
//! Source: Sorted LLaMA (arXiv 2309.08968), equation 1: the mean over the exits of the next-token
//! cross-entropy on the response tokens. The paper's text says "summation"; its formula and the
//! authors' code divide by the number of exits, as is done here.

use crate::exit::{Exit, Exits};
use crate::model::nested::TrainModel;

/// The position of a micro-batch in a run, on which a loss schedule may depend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MicroBatch {
    /// The optimizer step, counted from 1.
    pub step: u64,
    /// Its index within the step, counted from 0.
    pub index: u64,
}

impl MicroBatch {
    /// The first micro-batch of `step`.
    pub fn of_step(step: u64) -> Self {
        Self { step, index: 0 }
    }
}

/// The weights of the exits in the loss, as a pure function of exits and position in the run, so
/// that a resumed run continues unchanged.
pub trait LossSchedule {
    /// One weight per exit, none negative, with sum 1 unless exits share no trained parameter
    /// ([`SeparateExits`](crate::loss::SeparateExits)). Exits of weight 0 are skipped: their heads
    /// are not applied, and blocks beyond the last exit with a weight are not run.
    fn weights(&self, exits: &Exits, at: MicroBatch) -> Vec<f64>;
}

/// The result of one pass of the sorted loss.
#[derive(Clone, Debug)]
pub struct SortedLossOutput<Loss> {
    /// Σ weight · loss / normalizer, which is differentiated.
    pub total: Loss,
    /// Summed cross-entropy in nats at each exit whose weight is not zero, shallowest first.
    pub per_exit: Vec<(Exit, Loss)>,
}

/// One forward pass through `exits` and their weighted loss.
///
/// `weights` holds one weight per exit ([`LossSchedule::weights`]); exits of weight 0 are skipped.
/// `normalizer` is the number of supervised tokens of the whole optimizer batch, including all its
/// micro-batches, so that accumulated gradients equal those of one large batch. The model runs
/// once, not once per exit.
///
/// # Errors
/// Errors of the model.
///
/// # Panics
/// When there is not one weight per exit, or all are 0, which are programming errors.
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
            let hidden = model.at_exit(hidden.clone(), stop.exit, None)?;
            let loss = model.loss(&hidden, stop.exit, targets)?;
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
