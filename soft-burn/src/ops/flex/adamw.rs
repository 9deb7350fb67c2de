//! An AdamW step in a single pass over a parameter, in place.
//!
//! With tensor operations, a step reads and writes every array about a dozen times, and these
//! arrays are the largest of training. Here each is read once and written at most once. The
//! arithmetic is that of Burn's `AdamW` (Loshchilov and Hutter, arXiv 1711.05101), which other
//! backends use and the test compares with.

use burn::backend::Flex;
use burn::tensor::Tensor;
use pulp::Arch;
use rayon::prelude::*;

use super::host::own;
use crate::ops::adamw::step::{AdamWStep, Moving};

/// Elements per parallel task.
const CHUNK: usize = 1 << 15;

impl AdamWStep {
    /// Updates a parameter. A buffer that is not shared is overwritten; a shared one is copied
    /// first. Gradient and parameter have the same length.
    pub(crate) fn in_place(&self, gradient: Tensor<1>, moving: Moving) -> Moving {
        let gradient = own(gradient);
        let mut value = own(moving.value);
        let mut first = own(moving.first);
        let mut second = own(moving.second);
        let arrays = (
            value.storage_mut::<f32>().par_chunks_mut(CHUNK),
            first.storage_mut::<f32>().par_chunks_mut(CHUNK),
            second.storage_mut::<f32>().par_chunks_mut(CHUNK),
            gradient.storage::<f32>().par_chunks(CHUNK),
        );
        let arch = Arch::new();
        arrays
            .into_par_iter()
            .for_each(|(value, first, second, gradient)| {
                arch.dispatch(
                    #[inline(always)]
                    || self.chunk(gradient, value, (first, second)),
                );
            });
        Moving {
            value: Tensor::from_primitive::<Flex>(value),
            first: Tensor::from_primitive::<Flex>(first),
            second: Tensor::from_primitive::<Flex>(second),
        }
    }

    #[inline(always)]
    fn chunk(&self, gradient: &[f32], value: &mut [f32], moments: (&mut [f32], &mut [f32])) {
        let Self {
            scale,
            beta1,
            beta2,
            eps,
            rate,
            decay,
            time,
        } = *self;
        let (scale, rate) = (scale as f32, rate as f32);
        let correction = |beta: f32| 1.0 - beta.powi(time as i32);
        let (correction1, correction2) = (correction(beta1), correction(beta2));
        let kept = 1.0 - rate * decay;
        let moments = moments.0.iter_mut().zip(moments.1);
        for ((value, gradient), (first, second)) in value.iter_mut().zip(gradient).zip(moments) {
            let gradient = gradient * scale;
            *first = *first * beta1 + gradient * (1.0 - beta1);
            *second = *second * beta2 + gradient * gradient * (1.0 - beta2);
            let towards = (*first / correction1) / ((*second / correction2).sqrt() + eps);
            *value = *value * kept - rate * towards;
        }
    }
}

/// The sum of squares. The order of summation does not depend on the number of threads.
pub(crate) fn sum_of_squares(values: &[f32]) -> f64 {
    let arch = Arch::new();
    let parts = values.par_chunks(CHUNK).map(|part| {
        arch.dispatch(
            #[inline(always)]
            || {
                let (chunks, rest) = part.as_chunks::<16>();
                let mut sums = [0.0f32; 16];
                for chunk in chunks {
                    for (sum, x) in sums.iter_mut().zip(chunk) {
                        *sum += x * x;
                    }
                }
                let rest = rest.iter().map(|x| x * x);
                sums.into_iter().chain(rest).map(f64::from).sum::<f64>()
            },
        )
    });
    parts.collect::<Vec<f64>>().into_iter().sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // tests fail by panicking

    use burn::optim::{AdamWConfig, Optimizer};
    use burn::tensor::{Distribution, TensorData};

    use super::*;

    const STEP: AdamWStep = AdamWStep {
        scale: 0.5,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        rate: 1e-2,
        decay: 0.1,
        time: 1,
    };

    fn values(tensor: &Tensor<1>) -> Vec<f32> {
        tensor.clone().into_data().try_to_vec().unwrap()
    }

    #[test]
    fn is_what_burn_computes_over_several_steps() {
        let device = crate::device::device("cpu").unwrap();
        let length = 2 * CHUNK + 7;
        let random = || Tensor::<1>::random([length], Distribution::Normal(0.0, 1.0), &device);
        let start = random();
        let rule = AdamWConfig::new()
            .with_beta_1(STEP.beta1)
            .with_beta_2(STEP.beta2)
            .with_epsilon(STEP.eps)
            .with_weight_decay(STEP.decay)
            .build();
        let (mut expected, mut state) = (start.clone(), None);
        let mut found = Moving {
            first: start.zeros_like(),
            second: start.zeros_like(),
            value: start,
        };
        for time in 1..=4 {
            let gradient = random();
            let scaled = gradient.clone().mul_scalar(STEP.scale);
            (expected, state) = rule.step(STEP.rate, expected, scaled, state);
            found = AdamWStep { time, ..STEP }.in_place(gradient, found);
            let pairs = values(&expected).into_iter().zip(values(&found.value));
            let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 2e-6, "step {time}: {worst}");
        }
    }

    #[test]
    fn overwrites_what_it_owns_and_copies_what_is_shared() {
        let device = crate::device::device("cpu").unwrap();
        let ones = || Tensor::<1>::from_data(TensorData::new(vec![1f32; 9], [9]), &device);
        let address = |tensor: &Tensor<1>| own(tensor.clone()).storage::<f32>().as_ptr();
        let moving = |value| Moving {
            value,
            first: ones(),
            second: ones(),
        };
        let alone = moving(ones());
        let before = (address(&alone.value), address(&alone.first));
        let after = STEP.in_place(ones(), alone);
        assert_eq!(before, (address(&after.value), address(&after.first)));

        let shared = ones();
        let after = STEP.in_place(ones(), moving(shared.clone()));
        assert_eq!(values(&shared), [1.0; 9]);
        assert!(values(&after.value).iter().all(|&value| value < 1.0));
    }

    #[test]
    fn squares_are_summed_to_the_last() {
        let values: Vec<f32> = (0..2 * CHUNK + 21).map(|i| (i % 7) as f32 - 3.0).collect();
        let expected: f64 = values.iter().map(|x| f64::from(x * x)).sum();
        assert_eq!(sum_of_squares(&values), expected);
        assert_eq!(sum_of_squares(&[]), 0.0);
    }

    #[test]
    fn a_slice_of_a_larger_tensor_moves_alone() {
        let device = crate::device::device("cpu").unwrap();
        let all = Tensor::<1>::from_data(TensorData::new(vec![1f32; 9], [9]), &device);
        let part = all.clone().narrow(0, 3, 2);
        let moving = Moving {
            first: part.zeros_like(),
            second: part.zeros_like(),
            value: part.clone(),
        };
        let after = STEP.in_place(part, moving);
        assert_eq!(after.value.dims(), [2]);
        assert_eq!(values(&all), [1.0; 9]);
    }
}
