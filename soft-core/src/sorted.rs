//! The sorted loss and the choices of weights that make one code path many training methods.
//!
//! Source: Sorted LLaMA (arXiv 2309.08968), equation 1: the plain mean over the exits of the
//! next-token cross-entropy on the response tokens. Its prose says "summation"; formula and the
//! authors' code divide by the number of exits, and so do we.

use crate::{Exit, Exits, NestedModel, TrainModel};

/// How much each exit counts in the loss, a pure function of exits and step.
pub trait SortedLoss {
    /// One weight per exit, none negative, summing to 1. An exit of weight 0 is left out: its head is
    /// not applied and blocks beyond the last exit that counts are not run.
    fn weights(&self, exits: &Exits, step: u64) -> Vec<f64>;
}

/// Every exit equally, at every step: sorted fine-tuning (SoFT), equation 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllExits;

impl SortedLoss for AllExits {
    fn weights(&self, exits: &Exits, _step: u64) -> Vec<f64> {
        vec![1.0 / exits.len() as f64; exits.len()]
    }
}

/// The full model alone: standard fine-tuning (SFT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastExit;

impl SortedLoss for LastExit {
    fn weights(&self, exits: &Exits, _step: u64) -> Vec<f64> {
        let mut weights = vec![0.0; exits.len()];
        if let Some(last) = weights.last_mut() {
            *last = 1.0;
        }
        weights
    }
}

/// Every exit but the full model, equally: training heads of their own for the intermediate
/// exits of a frozen model (the ICT stage of SFT+ICT). With one exit only, that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntermediateExits;

impl SortedLoss for IntermediateExits {
    fn weights(&self, exits: &Exits, _step: u64) -> Vec<f64> {
        let intermediate = exits.len() - 1;
        if intermediate == 0 {
            return vec![1.0];
        }
        let mut weights = vec![1.0 / intermediate as f64; exits.len()];
        weights[intermediate] = 0.0;
        weights
    }
}

/// What one pass of the sorted loss yields.
#[derive(Clone, Debug)]
pub struct SortedLossOutput<Loss> {
    /// Σ weight · loss / normaliser: what is differentiated.
    pub total: Loss,
    /// Summed cross-entropy in nats at each exit whose weight is not zero, shallowest first.
    pub per_exit: Vec<(Exit, Loss)>,
}

/// One forward pass through `exits` and the weighted loss of all of them.
///
/// `weights` holds one weight per exit ([`SortedLoss::weights`]); exits of weight 0 are skipped.
/// `normaliser` is the number of supervised tokens of the whole optimiser batch, all its
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
    normaliser: f64,
) -> Result<SortedLossOutput<M::Loss>, M::Error> {
    assert_eq!(weights.len(), exits.len(), "one weight per exit");
    let mut per_exit = Vec::new();
    let mut terms = Vec::new();
    let mut hidden = NestedModel::embed(model, tokens)?;
    let last_needed = weights.iter().rposition(|&weight| weight != 0.0);
    let needed = last_needed.map_or(0, |last| last + 1);
    for ((segment, exit), &weight) in exits.segments().zip(exits.iter()).zip(weights).take(needed) {
        hidden = model.blocks(hidden, segment, None)?;
        if weight != 0.0 {
            let loss = model.loss(&hidden, exit, targets)?;
            terms.push((weight / normaliser, loss.clone()));
            per_exit.push((exit, loss));
        }
    }
    assert!(!terms.is_empty(), "at least one exit has a weight");
    Ok(SortedLossOutput {
        total: model.weighted_sum(&terms),
        per_exit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn weights_are_a_distribution(depths in proptest::collection::btree_set(1usize..99, 1..9), step: u64) {
            let exits = Exits::new(depths).unwrap();
            let schedules: [&dyn SortedLoss; 3] = [&AllExits, &LastExit, &IntermediateExits];
            for schedule in schedules {
                let weights = schedule.weights(&exits, step);
                prop_assert_eq!(weights.len(), exits.len());
                prop_assert!(weights.iter().all(|&weight| weight >= 0.0));
                prop_assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn methods_weigh_the_exits_they_should() {
        let exits = Exits::new([1, 2, 4]).unwrap();
        assert_eq!(AllExits.weights(&exits, 7), [1.0 / 3.0; 3]);
        assert_eq!(LastExit.weights(&exits, 7), [0.0, 0.0, 1.0]);
        assert_eq!(IntermediateExits.weights(&exits, 7), [0.5, 0.5, 0.0]);
    }
}
