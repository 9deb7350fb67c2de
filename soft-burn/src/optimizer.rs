//! AdamW over named parameters, with gradients that several micro-batches add up.
//!
//! The arithmetic is Burn's [`AdamW`](burn::optim::AdamW) (Loshchilov and Hutter,
//! arXiv 1711.05101), in one pass and in place on flex. This file decides what that leaves open: moments are kept by the names of
//! checkpoints, so that they can be saved and found again; weight decay falls on matrices only,
//! not on norms; clipping is by the global norm, as torch's `clip_grad_norm_`.

use std::collections::BTreeMap;
use std::path::Path;

use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer};
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use serde::{Deserialize, Serialize};

#[cfg(feature = "flex")]
use crate::kernels;
use crate::parameters::{host_values, map_parameters};
use crate::precision::to_f32;
use crate::weights::{NamedTensor, WeightFiles, WeightType, write_weights};
use crate::{Error, Llama};

/// Settings of AdamW and of clipping.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamWSettings {
    /// Decay of the mean gradient. Default 0.9.
    pub beta1: f32,
    /// Decay of the mean squared gradient. Default 0.999.
    pub beta2: f32,
    /// Added to the root of the latter. Default 1e-8.
    pub eps: f32,
    /// Decoupled weight decay of matrices; norms have none. Default 0.
    pub weight_decay: f32,
    /// Largest global gradient norm; larger gradients are scaled down. Default 1.
    pub clip_norm: Option<f64>,
}

impl Default for AdamWSettings {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            clip_norm: Some(1.0),
        }
    }
}

/// Gradients by parameter name, each flattened, summed over micro-batches.
#[derive(Debug, Default)]
pub(crate) struct NamedGradients(BTreeMap<String, Tensor<1>>);

impl NamedGradients {
    pub fn add(&mut self, name: String, gradient: Tensor<1>) {
        let gradient = to_f32(gradient);
        let sum = match self.0.remove(&name) {
            Some(sum) => sum + gradient,
            None => gradient,
        };
        self.0.insert(name, sum);
    }

    pub fn add_all(&mut self, gradients: Vec<(String, Tensor<1>)>) {
        for (name, gradient) in gradients {
            self.add(name, gradient);
        }
    }

    /// Adds gradients that another device computed.
    pub fn add_from(&mut self, other: Self, home: &Device) {
        for (name, gradient) in other.0 {
            self.add(name, gradient.to_device(home));
        }
    }

    /// The global L2 norm, or the name of the first tensor that is not finite.
    pub fn norm(&self) -> Result<f64, String> {
        let gradients: Vec<_> = self.0.values().collect();
        let mut sum = 0.0;
        for (name, squares) in self.0.keys().zip(squares(&gradients)) {
            if !squares.is_finite() {
                return Err(name.clone());
            }
            sum += squares;
        }
        Ok(sum.sqrt())
    }

    /// The parameters that have a gradient.
    #[cfg(test)]
    pub fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    /// Gradient of `name`, flattened.
    pub fn take(&mut self, name: &str) -> Option<Tensor<1>> {
        self.0.remove(name)
    }
}

/// The sum of the squares of each gradient's numbers.
pub(crate) fn squares(gradients: &[&Tensor<1>]) -> Vec<f64> {
    #[cfg(feature = "flex")]
    if gradients.iter().all(|one| kernels::is_flex_f32(one)) {
        let values = gradients.iter().map(|&one| kernels::host(one.clone()));
        let squares = values.map(|host| Ok(kernels::sum_of_squares(host?.values())));
        if let Ok(squares) = squares.collect::<Result<_, Error>>() {
            return squares;
        }
    }
    // One reading for all: each would wait for everything that the device has yet to compute.
    let sums = gradients.iter().map(|&one| one.clone().square().sum());
    match gradients.is_empty() {
        true => Vec::new(),
        false => Tensor::cat(sums.collect(), 0)
            .into_data()
            .iter::<f64>()
            .collect(),
    }
}

/// The moments of every trained parameter.
#[derive(Debug)]
pub(crate) struct NamedAdamW {
    settings: AdamWSettings,
    moments: BTreeMap<String, Moments>,
}

/// Running means of gradient and squared gradient, flattened.
#[derive(Debug)]
struct Moments {
    /// Steps this parameter took part in, for the bias correction.
    steps: usize,
    first: Tensor<1>,
    second: Tensor<1>,
    /// The parameter in f32 when the model holds it in fewer bits: steps smaller than its rounding add up here.
    master: Option<Tensor<1>>,
}

impl Moments {
    /// Before the first step.
    fn start(value: &Tensor<1>) -> Self {
        let whole = to_f32(value.clone());
        Self {
            steps: 0,
            first: whole.zeros_like(),
            second: whole.zeros_like(),
            master: (value.dtype() != DType::F32).then_some(whole),
        }
    }
}

/// A parameter on its way through one step.
struct Moving {
    value: Tensor<1>,
    moments: Moments,
}

/// What differs from step to step and from parameter to parameter.
#[derive(Clone, Copy)]
struct Pace {
    /// Gradients are multiplied by it, for clipping.
    scale: f64,
    rate: f64,
    decay: f32,
}

impl AdamWSettings {
    /// Moves the master where there is one, and the parameter with it.
    fn moved(&self, moving: Moving, gradient: Tensor<1>, pace: Pace) -> Moving {
        let Moving { value, mut moments } = moving;
        let Some(master) = moments.master.take() else {
            return self.moved_in_f32(Moving { value, moments }, gradient, pace);
        };
        let dtype = FloatDType::from(value.dtype());
        let moving = Moving {
            value: master,
            moments,
        };
        let mut moved = self.moved_in_f32(moving, gradient, pace);
        let value = moved.value.clone().cast(dtype);
        moved.moments.master = Some(moved.value);
        Moving { value, ..moved }
    }

    /// By the fused kernel where there is one, else by Burn's optimiser.
    fn moved_in_f32(&self, moving: Moving, gradient: Tensor<1>, pace: Pace) -> Moving {
        #[cfg(feature = "flex")]
        if kernels::is_flex_f32(&moving.value) {
            return self.moved_in_place(moving, gradient, pace);
        }
        self.moved_by_burn(moving, gradient, pace)
    }

    #[cfg(feature = "flex")]
    fn moved_in_place(&self, moving: Moving, gradient: Tensor<1>, pace: Pace) -> Moving {
        let Moving { value, moments } = moving;
        let steps = moments.steps + 1;
        let step = kernels::AdamWStep {
            scale: pace.scale as f32,
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            rate: pace.rate as f32,
            decay: pace.decay,
            time: steps,
        };
        let kernels::Moving {
            value,
            first,
            second,
        } = step.apply(
            gradient,
            kernels::Moving {
                value,
                first: moments.first,
                second: moments.second,
            },
        );
        let moments = Moments {
            steps,
            first,
            second,
            master: None,
        };
        Moving { value, moments }
    }

    fn moved_by_burn(&self, moving: Moving, gradient: Tensor<1>, pace: Pace) -> Moving {
        let rule: AdamW = AdamWConfig::new()
            .with_beta_1(self.beta1)
            .with_beta_2(self.beta2)
            .with_epsilon(self.eps)
            .with_weight_decay(pace.decay)
            .build();
        let Moving { value, mut moments } = moving;
        let state = AdamWState {
            momentum: AdaptiveMomentumState {
                time: moments.steps,
                moment_1: moments.first.clone(),
                moment_2: moments.second.clone(),
                max_moment_2: None,
            },
        };
        let gradient = gradient.mul_scalar(pace.scale);
        let (value, state) = rule.step(pace.rate, value, gradient, Some(state));
        if let Some(AdamWState { momentum }) = state {
            moments = Moments {
                steps: momentum.time,
                first: momentum.moment_1,
                second: momentum.moment_2,
                master: None,
            };
        }
        Moving { value, moments }
    }
}

const STEPS: &str = "step.";
const FIRST: &str = "exp_avg.";
const SECOND: &str = "exp_avg_sq.";
const MASTER: &str = "master.";

impl NamedAdamW {
    pub fn new(settings: AdamWSettings) -> Self {
        Self {
            settings,
            moments: BTreeMap::new(),
        }
    }

    /// One step: parameters with a gradient move, the others stay. `norm` is the gradients' global
    /// norm before clipping.
    pub fn step(
        &mut self,
        model: Llama,
        mut gradients: NamedGradients,
        norm: f64,
        rate: f64,
    ) -> Llama {
        let scale = self
            .settings
            .clip_norm
            .map_or(1.0, |most| (most / (norm + 1e-6)).min(1.0));
        map_parameters(model, |name, rank, value| {
            let Some(gradient) = gradients.take(name) else {
                return value;
            };
            let moments = self.moments.remove(name);
            let moments = moments.unwrap_or_else(|| Moments::start(&value));
            let moving = Moving { value, moments };
            let decay = if rank > 1 {
                self.settings.weight_decay
            } else {
                0.0
            };
            let Moving { value, moments } =
                self.settings
                    .moved(moving, gradient, Pace { scale, rate, decay });
            self.moments.insert(name.to_owned(), moments);
            value
        })
    }

    /// Writes the moments, named as torch names them.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let mut tensors = Vec::with_capacity(3 * self.moments.len());
        for (parameter, moments) in &self.moments {
            // f32 counts steps exactly up to 16 million, as torch's own counter does.
            let name = format!("{STEPS}{parameter}");
            tensors.push(NamedTensor {
                name,
                shape: vec![1],
                values: vec![moments.steps as f32],
            });
            let master = moments.master.iter().map(|tensor| (MASTER, tensor));
            let both = [(FIRST, &moments.first), (SECOND, &moments.second)];
            for (prefix, tensor) in both.into_iter().chain(master) {
                let name = format!("{prefix}{parameter}");
                let values = host_values(tensor.clone(), &name)?;
                tensors.push(NamedTensor {
                    name,
                    shape: vec![values.len()],
                    values,
                });
            }
        }
        write_weights(path, &tensors, WeightType::F32)
    }

    /// How many steps each parameter was moved by that was moved at all.
    pub fn steps(&self) -> BTreeMap<String, usize> {
        let steps = self.moments.iter();
        steps
            .map(|(name, moments)| (name.clone(), moments.steps))
            .collect()
    }

    /// What of the moments no run of `steps_done` steps could have left in a model with parameters of these `lengths`.
    pub fn problem(&self, lengths: &BTreeMap<String, usize>, steps_done: u64) -> Option<String> {
        let mut problems = self.moments.iter().filter_map(|(name, moments)| {
            let Some(&length) = lengths.get(name) else {
                return Some(format!("it has moments of {name}, which the model lacks"));
            };
            let both = [&moments.first, &moments.second];
            let mut all = both.into_iter().chain(&moments.master);
            if let Some(other) = all.find(|tensor| tensor.dims() != [length]) {
                let found = other.dims()[0];
                return Some(format!(
                    "the moments of {name} have {found} numbers: expected {length}"
                ));
            }
            let steps = moments.steps as u64;
            (steps == 0 || steps > steps_done).then(|| {
                format!(
                    "the moments of {name} are of {steps} steps, the checkpoint of {steps_done}"
                )
            })
        });
        problems.next()
    }

    /// Reads what [`save`](Self::save) wrote.
    pub fn load(settings: AdamWSettings, path: &Path, device: &Device) -> Result<Self, Error> {
        let mut files = WeightFiles::open_file(path)?;
        let mut moments = BTreeMap::new();
        for name in files.names() {
            let Some(parameter) = name.strip_prefix(FIRST) else {
                continue;
            };
            let steps = files.take(&format!("{STEPS}{parameter}"), &[1])?;
            let has_master = files.shape(&format!("{MASTER}{parameter}")).is_some();
            let mut read = |prefix: &str| {
                let name = format!("{prefix}{parameter}");
                let shape = files.shape(&name).unwrap_or_default().to_vec();
                let values = files.take(&name, &shape)?;
                // Squares.
                let negative = values.iter().position(|value| *value < 0.0);
                if let Some(index) = negative.filter(|_| prefix == SECOND) {
                    return Err(Error::DamagedTensor {
                        path: path.to_owned(),
                        name,
                        value: values[index],
                        index,
                    });
                }
                Ok::<_, Error>(Tensor::from_data(TensorData::new(values, shape), device))
            };
            let (first, second) = (read(FIRST)?, read(SECOND)?);
            let master = has_master.then(|| read(MASTER)).transpose()?;
            let steps = steps.first().map_or(0, |&steps| steps as usize);
            moments.insert(
                parameter.to_owned(),
                Moments {
                    steps,
                    first,
                    second,
                    master,
                },
            );
        }
        files.finish()?;
        Ok(Self { settings, moments })
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    #![allow(clippy::unwrap_used)] // a test's way to fail

    use super::*;

    /// Other backends take Burn's way: the same numbers come out of both.
    #[test]
    fn both_ways_agree() {
        let device = crate::device("cpu").unwrap();
        let tensor = |values: [f32; 4]| Tensor::<1>::from_data(values, &device);
        let settings = AdamWSettings::default();
        let moving = || {
            let value = tensor([0.5, -1.0, 2.0, 0.0]);
            let moments = Moments::start(&value);
            Moving { value, moments }
        };
        let (mut ours, mut burns) = (moving(), moving());
        for step in 1..=3 {
            let gradient = tensor([0.1, 0.0, -3.0, step as f32]);
            let pace = Pace {
                scale: 1.0 / step as f64,
                rate: 1e-2,
                decay: 0.1,
            };
            ours = settings.moved_in_place(ours, gradient.clone(), pace);
            burns = settings.moved_by_burn(burns, gradient, pace);
            assert_eq!(ours.moments.steps, burns.moments.steps);
            let pairs = [
                (&ours.value, &burns.value),
                (&ours.moments.first, &burns.moments.first),
                (&ours.moments.second, &burns.moments.second),
            ];
            for (ours, burns) in pairs {
                let worst = (ours.clone() - burns.clone()).abs().max();
                assert!(worst.into_scalar::<f32>() < 2e-6);
            }
        }
    }
}
