//! Curricula: which exits are trained at which step.
//!
//! Source: LayerSkip (Elhoushi et al., arXiv 2404.16710, section 4.1.2), whose early exits slow
//! down training and disturb the full model if all are trained from the first step. The full depth
//! keeps its weight; those of omitted exits are shared among the others, so that weights sum to 1.

use crate::exit::ExitError;
use crate::exit::Exits;
use crate::loss::sorted::{LossSchedule, MicroBatch};

/// Intermediate exits in rotation: every R-th of them at each step, a different set at the next.
///
/// Every exit is trained once in R steps. LayerSkip's C_rot,R.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotational<L> {
    weights: L,
    every: u64,
}

impl<L: LossSchedule> Rotational<L> {
    /// Every `every`-th intermediate exit, with the weights of `weights`.
    ///
    /// # Errors
    /// When `every` is 0.
    pub fn new(weights: L, every: u64) -> Result<Self, ExitError> {
        if every == 0 {
            return Err(ExitError::Curriculum {
                found: "a curriculum of every 0th exit",
            });
        }
        Ok(Self { weights, every })
    }
}

impl<L: LossSchedule> LossSchedule for Rotational<L> {
    fn weights(&self, exits: &Exits, at: MicroBatch) -> Vec<f64> {
        let turn = at.step % self.every;
        let counts = |index: usize| index as u64 % self.every == turn;
        only(self.weights.weights(exits, at), counts)
    }
}

/// Exits are added one by one, deepest first; all are trained after the given number of steps.
///
/// LayerSkip's C_grad adds a layer every T / 2L of T steps: all L from the middle of the run on.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradual<L> {
    weights: L,
    steps: u64,
}

impl<L: LossSchedule> Gradual<L> {
    /// All exits of `weights` are trained after `steps` steps (in LayerSkip, half of the run).
    ///
    /// # Errors
    /// When `steps` is 0.
    pub fn new(weights: L, steps: u64) -> Result<Self, ExitError> {
        if steps == 0 {
            return Err(ExitError::Curriculum {
                found: "a curriculum in which exits join over 0 steps",
            });
        }
        Ok(Self { weights, steps })
    }
}

impl<L: LossSchedule> LossSchedule for Gradual<L> {
    fn weights(&self, exits: &Exits, at: MicroBatch) -> Vec<f64> {
        let intermediate = exits.len() as u64 - 1;
        // Wide enough for every step. Steps are counted from 1.
        let done = u128::from(at.step.saturating_sub(1));
        let joined = done * u128::from(intermediate) / u128::from(self.steps);
        let missing = intermediate - joined.min(u128::from(intermediate)) as u64;
        only(self.weights.weights(exits, at), |index| {
            index as u64 >= missing
        })
    }
}

/// The weights of the full depth and of exits that `counts` selects, scaled to sum to 1. If all are
/// then 0, the full depth gets weight 1.
fn only(mut weights: Vec<f64>, counts: impl Fn(usize) -> bool) -> Vec<f64> {
    let last = weights.len() - 1;
    for (index, weight) in weights[..last].iter_mut().enumerate() {
        if !counts(index) {
            *weight = 0.0;
        }
    }
    let sum: f64 = weights.iter().sum();
    if sum > 0.0 {
        weights.iter_mut().for_each(|weight| *weight /= sum);
    } else {
        weights[last] = 1.0;
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::schedules::{AllExits, IntermediateExits};

    fn counting(schedule: &impl LossSchedule, exits: &Exits, step: u64) -> Vec<usize> {
        let weights = schedule.weights(exits, MicroBatch { step, index: 0 });
        let counting = exits
            .iter()
            .zip(weights)
            .filter(|(_, weight)| *weight > 0.0);
        counting.map(|(exit, _)| exit.depth()).collect()
    }

    #[test]
    fn exits_take_turns_and_the_full_depth_always_counts() {
        let exits = Exits::new([2, 4, 6, 8, 10]).unwrap();
        let rotational = Rotational::new(AllExits, 3).unwrap();
        assert_eq!(counting(&rotational, &exits, 3), [2, 8, 10]);
        assert_eq!(counting(&rotational, &exits, 4), [4, 10]);
        assert_eq!(counting(&rotational, &exits, 5), [6, 10]);
        assert_eq!(counting(&rotational, &exits, 6), [2, 8, 10]);
        let weights = rotational.weights(&exits, MicroBatch { step: 3, index: 0 });
        assert_eq!(weights, [1.0 / 3.0, 0.0, 0.0, 1.0 / 3.0, 1.0 / 3.0]);
        let all = Rotational::new(AllExits, 1).unwrap();
        assert_eq!(counting(&all, &exits, 7), [2, 4, 6, 8, 10]);
    }

    #[test]
    fn exits_join_from_the_deepest_down() {
        let exits = Exits::new([2, 4, 6, 8]).unwrap();
        let gradual = Gradual::new(AllExits, 30).unwrap();
        let first: Vec<_> = [1, 10, 11, 20, 21, 30, 31, u64::MAX]
            .map(|step| counting(&gradual, &exits, step)[0])
            .to_vec();
        assert_eq!(first, [8, 8, 6, 6, 4, 4, 2, 2]);
    }

    #[test]
    fn somebody_always_counts() {
        let exits = Exits::new([2, 4]).unwrap();
        let gradual = Gradual::new(IntermediateExits, 5).unwrap();
        assert_eq!(gradual.weights(&exits, MicroBatch::of_step(1)), [0.0, 1.0]);
        assert_eq!(gradual.weights(&exits, MicroBatch::of_step(6)), [1.0, 0.0]);
    }

    #[test]
    fn empty_curricula_are_refused() {
        assert!(Rotational::new(AllExits, 0).is_err());
        assert!(Gradual::new(AllExits, 0).is_err());
    }
}
