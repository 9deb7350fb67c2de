//! AdamW over named parameters, with gradients that several micro-batches add up.
//!
//! The arithmetic is Burn's [`AdamW`](burn::optim::AdamW) (Loshchilov and Hutter,
//! arXiv 1711.05101). This file decides what that leaves open: moments are kept by the names of
//! checkpoints, so that they can be saved and found again; weight decay falls on matrices only,
//! not on norms; clipping is by the global norm, as torch's `clip_grad_norm_`.

use std::collections::BTreeMap;
use std::path::Path;

use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer};
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::parameters::{host_values, map_parameters};
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

    /// The global L2 norm, or the name of the first tensor that is not finite.
    pub fn norm(&self) -> Result<f64, String> {
        let mut sum = 0.0;
        for (name, gradient) in &self.0 {
            let squares: f32 = gradient.clone().square().sum().into_scalar();
            if !squares.is_finite() {
                return Err(name.clone());
            }
            sum += f64::from(squares);
        }
        Ok(sum.sqrt())
    }

    /// Gradient of `name`, flattened.
    pub fn take(&mut self, name: &str) -> Option<Tensor<1>> {
        self.0.remove(name)
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
}

const STEPS: &str = "step.";
const FIRST: &str = "exp_avg.";
const SECOND: &str = "exp_avg_sq.";

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
        let matrices = self.rule(self.settings.weight_decay);
        let norms = self.rule(0.0);
        let scale = self
            .settings
            .clip_norm
            .map_or(1.0, |most| (most / (norm + 1e-6)).min(1.0));
        map_parameters(model, |name, rank, value| {
            let gradient = gradients.take(name)?;
            let gradient = if scale < 1.0 {
                gradient.mul_scalar(scale)
            } else {
                gradient
            };
            let state = self.moments.remove(name).map(|moments| AdamWState {
                momentum: AdaptiveMomentumState {
                    time: moments.steps,
                    moment_1: moments.first,
                    moment_2: moments.second,
                    max_moment_2: None,
                },
            });
            let rule = if rank > 1 { &matrices } else { &norms };
            let (moved, state) = rule.step(rate, value, gradient, state);
            if let Some(AdamWState { momentum }) = state {
                let moments = Moments {
                    steps: momentum.time,
                    first: momentum.moment_1,
                    second: momentum.moment_2,
                };
                self.moments.insert(name.to_owned(), moments);
            }
            Some(moved)
        })
    }

    fn rule(&self, weight_decay: f32) -> AdamW {
        let AdamWSettings {
            beta1, beta2, eps, ..
        } = self.settings;
        AdamWConfig::new()
            .with_beta_1(beta1)
            .with_beta_2(beta2)
            .with_epsilon(eps)
            .with_weight_decay(weight_decay)
            .build()
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
            for (prefix, tensor) in [(FIRST, &moments.first), (SECOND, &moments.second)] {
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

    /// Reads what [`save`](Self::save) wrote.
    pub fn load(settings: AdamWSettings, path: &Path, device: &Device) -> Result<Self, Error> {
        let mut files = WeightFiles::open_file(path)?;
        let mut moments = BTreeMap::new();
        for name in files.names() {
            let Some(parameter) = name.strip_prefix(FIRST) else {
                continue;
            };
            let steps = files.take(&format!("{STEPS}{parameter}"), &[1])?;
            let mut read = |prefix: &str| {
                let name = format!("{prefix}{parameter}");
                let shape = files.shape(&name).unwrap_or_default().to_vec();
                let values = files.take(&name, &shape)?;
                Ok::<_, Error>(Tensor::from_data(TensorData::new(values, shape), device))
            };
            let (first, second) = (read(FIRST)?, read(SECOND)?);
            let steps = steps.first().map_or(0, |&steps| steps as usize);
            moments.insert(
                parameter.to_owned(),
                Moments {
                    steps,
                    first,
                    second,
                },
            );
        }
        files.finish()?;
        Ok(Self { settings, moments })
    }
}
