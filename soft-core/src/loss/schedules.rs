//! Loss schedules: weights of the exits, with which one code path serves many training methods.
//!
//! A schedule is a weight per exit and step; the loss itself is in `sorted.rs`.

use crate::exit::ExitError;
use crate::exit::Exits;
use crate::loss::sorted::{LossSchedule, MicroBatch};
use crate::random::{Random, tag};

/// Equal weights at every step: sorted fine-tuning (SoFT), equation 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllExits;

impl LossSchedule for AllExits {
    fn weights(&self, exits: &Exits, _at: MicroBatch) -> Vec<f64> {
        vec![1.0 / exits.len() as f64; exits.len()]
    }
}

/// Only the full model: standard fine-tuning (SFT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastExit;

impl LossSchedule for LastExit {
    fn weights(&self, exits: &Exits, _at: MicroBatch) -> Vec<f64> {
        let mut weights = vec![0.0; exits.len()];
        if let Some(last) = weights.last_mut() {
            *last = 1.0;
        }
        weights
    }
}

/// Equal weights of all exits except the full model, to train heads for the intermediate exits of a
/// frozen model (the ICT stage of SFT+ICT). A single exit gets weight 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntermediateExits;

impl LossSchedule for IntermediateExits {
    fn weights(&self, exits: &Exits, _at: MicroBatch) -> Vec<f64> {
        let intermediate = exits.len() - 1;
        if intermediate == 0 {
            return vec![1.0];
        }
        let mut weights = vec![1.0 / intermediate as f64; exits.len()];
        weights[intermediate] = 0.0;
        weights
    }
}

/// The full model with weight 1 beside [`IntermediateExits`]: two losses, for intermediate exits
/// that share no trained parameter with the full model. It is then trained exactly as by
/// [`LastExit`].
///
/// The weights sum to 2, or to 1 for a single exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeparateExits;

impl LossSchedule for SeparateExits {
    fn weights(&self, exits: &Exits, at: MicroBatch) -> Vec<f64> {
        let mut weights = IntermediateExits.weights(exits, at);
        if let Some(last) = weights.last_mut() {
            *last = 1.0;
        }
        weights
    }
}

/// Custom weights, the same at every step.
#[derive(Clone, Debug, PartialEq)]
pub struct ExitWeights(Vec<f64>);

impl ExitWeights {
    /// One weight per exit, shallowest first; they are scaled to sum to 1.
    ///
    /// # Errors
    /// When a weight is negative or not finite, or none is above 0.
    pub fn new(weights: impl Into<Vec<f64>>) -> Result<Self, ExitError> {
        let mut weights = weights.into();
        let sum: f64 = weights.iter().sum();
        if !sum.is_finite() || sum <= 0.0 || weights.iter().any(|&weight| weight < 0.0) {
            return Err(ExitError::Weights {
                found: format!("{weights:?}"),
            });
        }
        weights.iter_mut().for_each(|weight| *weight /= sum);
        Ok(Self(weights))
    }
}

impl LossSchedule for ExitWeights {
    fn weights(&self, _exits: &Exits, _at: MicroBatch) -> Vec<f64> {
        self.0.clone()
    }
}

/// A few exits per micro-batch, each drawn in proportion to its weight in another schedule.
///
/// The mean over micro-batches is that schedule's loss, at the cost of the drawn exits: a step
/// whose deepest exit is 6 runs 6 blocks. Exits are drawn by systematic sampling, with `draws`
/// equally spaced points and one random offset on the cumulative weights. An exit of weight at most
/// 1 / `draws` is therefore drawn at most once, and with equal weights all drawn exits differ.
/// Source: Valipour et al., *SortedNet* (arXiv 2309.00255), which samples one sub-model at a time;
/// Madow, *On the theory of systematic sampling, II*, 1949.
#[derive(Clone, Debug, PartialEq)]
pub struct SampledExits<L> {
    weights: L,
    draws: usize,
    seed: u64,
}

impl<L: LossSchedule> SampledExits<L> {
    /// `draws` exits per micro-batch, drawn by the weights of `weights`. The draws depend only on
    /// `seed` and the micro-batch, so that a resumed run continues unchanged.
    ///
    /// # Errors
    /// When `draws` is 0.
    pub fn new(weights: L, draws: usize, seed: u64) -> Result<Self, ExitError> {
        if draws == 0 {
            return Err(ExitError::NothingSampled);
        }
        Ok(Self {
            weights,
            draws,
            seed,
        })
    }

    /// Uniform in [0, 1), a function of seed and micro-batch.
    fn offset(&self, at: MicroBatch) -> f64 {
        Random::keyed([self.seed, at.step, tag(b"exits\0\0\0"), at.index]).uniform()
    }
}

impl<L: LossSchedule> LossSchedule for SampledExits<L> {
    fn weights(&self, exits: &Exits, at: MicroBatch) -> Vec<f64> {
        let weights = self.weights.weights(exits, at);
        let share = 1.0 / self.draws as f64;
        // Counted from the deepest exit down; rounding errors go to the shallowest with a weight.
        let shallowest = weights.iter().position(|&weight| weight > 0.0);
        let mut sampled = vec![0.0; weights.len()];
        let offset = self.offset(at);
        for draw in 0..self.draws {
            let mut point = (offset + draw as f64) * share;
            let found = weights.iter().rposition(|&weight| {
                point -= weight;
                point < 0.0
            });
            if let Some(index) = found.or(shallowest) {
                sampled[index] += share;
            }
        }
        sampled
    }
}

impl LossSchedule for Box<dyn LossSchedule + Send> {
    fn weights(&self, exits: &Exits, at: MicroBatch) -> Vec<f64> {
        (**self).weights(exits, at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::curriculum::{Gradual, Rotational};
    use crate::loss::depth_weights::DepthWeights;
    use proptest::prelude::*;

    fn exits(depths: impl IntoIterator<Item = usize>) -> Exits {
        Exits::new(depths).unwrap()
    }

    proptest! {
        #[test]
        fn weights_are_a_distribution(
            depths in proptest::collection::btree_set(1usize..99, 1..9),
            raw in proptest::collection::vec(0.01_f64..9.0, 9),
            draws in 1usize..12,
            step: u64,
            index: u64,
        ) {
            let at = MicroBatch { step, index };
            let exits = exits(depths);
            let own = ExitWeights::new(&raw[..exits.len()]).unwrap();
            let sampled = SampledExits::new(own.clone(), draws, 3).unwrap();
            let rotational = Rotational::new(own.clone(), 1 + step % 5).unwrap();
            let gradual = Gradual::new(DepthWeights::Quadratic, 1 + index % 99).unwrap();
            let schedules: [&dyn LossSchedule; 7] = [
                &AllExits, &LastExit, &IntermediateExits, &own, &sampled, &rotational, &gradual,
            ];
            for schedule in schedules {
                let weights = schedule.weights(&exits, at);
                prop_assert_eq!(weights.len(), exits.len());
                prop_assert!(weights.iter().all(|&weight| weight >= 0.0));
                prop_assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn methods_weigh_the_exits_they_should() {
        let exits = exits([1, 2, 4]);
        assert_eq!(
            AllExits.weights(&exits, MicroBatch::of_step(7)),
            [1.0 / 3.0; 3]
        );
        assert_eq!(
            LastExit.weights(&exits, MicroBatch::of_step(7)),
            [0.0, 0.0, 1.0]
        );
        assert_eq!(
            IntermediateExits.weights(&exits, MicroBatch::of_step(7)),
            [0.5, 0.5, 0.0]
        );
        assert_eq!(
            SeparateExits.weights(&exits, MicroBatch::of_step(7)),
            [0.5, 0.5, 1.0]
        );
        let own = ExitWeights::new([2.0, 0.0, 6.0]).unwrap();
        assert_eq!(
            own.weights(&exits, MicroBatch::of_step(7)),
            [0.25, 0.0, 0.75]
        );
    }

    /// The mean of the drawn weights over many steps equals the weights drawn from.
    #[test]
    fn sampling_is_unbiased() {
        let exits = exits([1, 2, 4, 8]);
        let own = ExitWeights::new([0.5, 0.1, 0.0, 0.4]).unwrap();
        for draws in 1..=3 {
            let sampled = SampledExits::new(own.clone(), draws, 9).unwrap();
            let mut mean = [0.0; 4];
            const STEPS: u64 = 20_000;
            for step in 0..STEPS {
                for (mean, weight) in mean
                    .iter_mut()
                    .zip(sampled.weights(&exits, MicroBatch::of_step(step)))
                {
                    *mean += weight / STEPS as f64;
                }
            }
            // The weight of one draw has a standard deviation of at most 0.5, the mean of 0.0035.
            for (mean, weight) in mean.iter().zip(own.weights(&exits, MicroBatch::default())) {
                assert!(
                    (mean - weight).abs() < 0.018,
                    "{draws}: {mean} for {weight}"
                );
            }
        }
    }

    #[test]
    fn equal_weights_are_drawn_without_repeats() {
        let exits = exits([1, 2, 3, 4, 5]);
        for step in 0..500 {
            let weights = SampledExits::new(AllExits, 2, 1).unwrap();
            let mut weights = weights.weights(&exits, MicroBatch::of_step(step));
            weights.sort_by(f64::total_cmp);
            assert_eq!(weights, [0.0, 0.0, 0.0, 0.5, 0.5]);
        }
    }

    #[test]
    fn a_step_is_drawn_alike_whenever_it_is_asked() {
        let exits = exits([2, 4, 6]);
        let drawn = |seed, step| {
            SampledExits::new(AllExits, 1, seed).unwrap().weights(
                &exits,
                MicroBatch {
                    step,
                    index: step % 3,
                },
            )
        };
        assert!((0..50).all(|step| drawn(5, step) == drawn(5, step)));
        assert!((0..50).any(|step| drawn(5, step) != drawn(6, step)));
    }

    #[test]
    fn the_micro_batches_of_a_step_draw_for_themselves() {
        let exits = exits([2, 4, 6]);
        let sampled = SampledExits::new(AllExits, 1, 5).unwrap();
        let drawn = |index| sampled.weights(&exits, MicroBatch { step: 1, index });
        assert!((1..50).any(|index| drawn(index) != drawn(0)));
    }

    #[test]
    fn weights_that_weigh_nothing_are_refused() {
        for wrong in [
            vec![],
            vec![0.0, 0.0],
            vec![1.0, -0.5],
            vec![f64::NAN],
            vec![f64::INFINITY],
        ] {
            assert!(ExitWeights::new(wrong).is_err());
        }
        assert_eq!(
            SampledExits::new(AllExits, 0, 1),
            Err(ExitError::NothingSampled)
        );
    }
}
