//! AdamW (Loshchilov and Hutter, arXiv 1711.05101): one step of one parameter.

pub(crate) mod step;

use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer};
use burn::tensor::{DType, FloatDType, Tensor};

use crate::dtype::to_f32;

#[cfg(feature = "flex")]
use crate::error::Error;
#[cfg(feature = "flex")]
use crate::ops::flex;
use crate::ops::transfers::Numbers;
use step::{AdamWStep, Moving};

impl AdamWStep {
    /// Updates a parameter in f32 by its gradient in any type, by a kernel or else by Burn's
    /// optimizer. Also returns the parameter rounded to `dtype`, if that is not f32.
    pub fn apply(
        &self,
        gradient: Tensor<1>,
        moving: Moving,
        dtype: DType,
    ) -> (Moving, Option<Tensor<1>>) {
        #[cfg(feature = "cube")]
        if crate::ops::cube::runs_on(&moving.value.device()) {
            return self.by_cube(gradient, moving, dtype);
        }
        let moved = self.in_f32(to_f32(gradient), moving);
        let rounded = match dtype {
            DType::F32 => None,
            reduced => Some(moved.value.clone().cast(FloatDType::from(reduced))),
        };
        (moved, rounded)
    }

    fn in_f32(&self, gradient: Tensor<1>, moving: Moving) -> Moving {
        #[cfg(feature = "flex")]
        if flex::is_flex_f32(&moving.value) {
            return self.in_place(gradient, moving);
        }
        #[cfg(feature = "tch")]
        if crate::ops::torch::is_torch_f32(&moving.value) {
            return self.by_torch(gradient, moving);
        }
        self.by_burn(gradient, moving)
    }

    fn by_burn(&self, gradient: Tensor<1>, moving: Moving) -> Moving {
        let rule: AdamW = AdamWConfig::new()
            .with_beta_1(self.beta1)
            .with_beta_2(self.beta2)
            .with_epsilon(self.eps)
            .with_weight_decay(self.decay)
            .build();
        let Moving {
            value,
            mut first,
            mut second,
        } = moving;
        let state = AdamWState {
            momentum: AdaptiveMomentumState {
                time: self.time - 1,
                moment_1: first.clone(),
                moment_2: second.clone(),
                max_moment_2: None,
            },
        };
        let gradient = gradient.mul_scalar(self.scale);
        let (value, state) = rule.step(self.rate, value, gradient, Some(state));
        if let Some(AdamWState { momentum }) = state {
            (first, second) = (momentum.moment_1, momentum.moment_2);
        }
        Moving {
            value,
            first,
            second,
        }
    }
}

/// The sum of squares of every gradient; all are on one device.
pub(crate) fn squares(gradients: &[&Tensor<1>]) -> Numbers {
    if gradients.is_empty() {
        return Numbers::none();
    }
    #[cfg(feature = "flex")]
    if gradients.iter().all(|one| flex::is_flex_f32(one)) {
        let values = gradients.iter().map(|&one| flex::host(one.clone()));
        let squares = values.map(|host| Ok(flex::sum_of_squares(host?.values())));
        if let Ok(squares) = squares.collect::<Result<_, Error>>() {
            return Numbers::Read(squares);
        }
    }
    #[cfg(feature = "cube")]
    if crate::ops::cube::runs_on(&gradients[0].device()) {
        return Numbers::Unread(crate::ops::cube::sums_of_squares(gradients));
    }
    let sums = gradients
        .iter()
        .map(|&one| to_f32(one.clone()).square().sum());
    Numbers::Unread(Tensor::cat(sums.collect(), 0))
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    #![allow(clippy::unwrap_used)] // tests fail by panicking

    use super::*;

    /// Burn's optimizer, which other backends use, gives the same values as the kernel.
    #[test]
    fn both_ways_agree() {
        let device = crate::device::device("cpu").unwrap();
        let tensor = |values: [f32; 4]| Tensor::<1>::from_data(values, &device);
        let start = || {
            let value = tensor([0.5, -1.0, 2.0, 0.0]);
            Moving {
                first: value.zeros_like(),
                second: value.zeros_like(),
                value,
            }
        };
        let (mut kernel, mut burn) = (start(), start());
        for time in 1..=3 {
            let gradient = tensor([0.1, 0.0, -3.0, time as f32]);
            let step = AdamWStep {
                scale: 1.0 / time as f64,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                rate: 1e-2,
                decay: 0.1,
                time,
            };
            kernel = step.in_place(gradient.clone(), kernel);
            burn = step.by_burn(gradient, burn);
            let pairs = [
                (&kernel.value, &burn.value),
                (&kernel.first, &burn.first),
                (&kernel.second, &burn.second),
            ];
            for (kernel, burn) in pairs {
                let worst = (kernel.clone() - burn.clone()).abs().max();
                assert!(worst.into_scalar::<f32>() < 2e-6);
            }
        }
    }
}
