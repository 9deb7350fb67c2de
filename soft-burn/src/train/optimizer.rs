//! AdamW over named parameters.
//!
//! The arithmetic is in `ops::adamw`. Here moments are stored by parameter name, so that they can
//! be saved and loaded; weight decay applies to matrices only, not to norms. Clipping is by the
//! global norm, like PyTorch's `clip_grad_norm_`, of the model's own parameters and of those that
//! exits have of their own, each for itself.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType as TensorDType, Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::device_errors::failed;
use crate::dtype::{DType, to_f32};
use crate::error::Error;
use crate::files::safetensors::{NamedTensor, WeightFiles, write_weights};
use crate::model::llama::Llama;
use crate::model::parameters::{host_values, map_parameters};
use crate::ops::adamw::step::{AdamWStep, Moving};
use crate::train::gradients::{GradientNorms, NamedGradients};

/// Settings of AdamW and of clipping.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamWSettings {
    /// Decay rate of the mean gradient. Default 0.9.
    pub beta1: f32,
    /// Decay rate of the mean squared gradient. Default 0.999.
    pub beta2: f32,
    /// Added to the root of the mean squared gradient. Default 1e-8.
    pub eps: f32,
    /// Decoupled weight decay of matrices; norms have none. Default 0.
    pub weight_decay: f32,
    /// Maximum global gradient norm; larger gradients are scaled down. Heads and blocks of exits
    /// are clipped apart from the model itself. Default 1.
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

#[derive(Debug)]
pub(crate) struct NamedAdamW {
    settings: AdamWSettings,
    moments: BTreeMap<String, Moments>,
}

/// Running means of gradient and squared gradient, flattened.
#[derive(Debug)]
struct Moments {
    /// Steps of this parameter, for the bias correction.
    steps: usize,
    first: Tensor<1>,
    second: Tensor<1>,
    /// The parameter in f32 if the model's has fewer bits: accumulates updates below its rounding.
    master: Option<Tensor<1>>,
}

impl Moments {
    fn start(value: &Tensor<1>) -> Self {
        let whole = to_f32(value.clone());
        Self {
            steps: 0,
            first: whole.zeros_like(),
            second: whole.zeros_like(),
            master: (value.dtype() != TensorDType::F32).then_some(whole),
        }
    }
}

/// Values that differ between steps and between parameters.
#[derive(Clone, Copy)]
struct StepScale {
    /// Factor applied to the gradients, for clipping.
    scale: f64,
    rate: f64,
    decay: f32,
}

impl AdamWSettings {
    /// Updates the master weights, if any, and the parameter.
    fn moved(
        &self,
        value: Tensor<1>,
        moments: Moments,
        gradient: Tensor<1>,
        pace: StepScale,
    ) -> (Tensor<1>, Moments) {
        let steps = moments.steps + 1;
        let step = AdamWStep {
            scale: pace.scale,
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            rate: pace.rate,
            decay: pace.decay,
            time: steps,
        };
        let dtype = value.dtype();
        let moving = Moving {
            value: moments.master.unwrap_or_else(|| to_f32(value)),
            first: moments.first,
            second: moments.second,
        };
        let (moved, rounded) = step.apply(gradient, moving, dtype);
        let (value, master) = match rounded {
            Some(rounded) => (rounded, Some(moved.value)),
            None => (moved.value, None),
        };
        let moments = Moments {
            steps,
            first: moved.first,
            second: moved.second,
            master,
        };
        (value, moments)
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

    /// Updates the parameters that have a gradient. `norms` are those of all gradients.
    pub fn step(
        &mut self,
        model: Llama,
        mut gradients: NamedGradients,
        norms: GradientNorms,
        rate: f64,
    ) -> Llama {
        map_parameters(model, |name, rank, value| {
            let Some(gradient) = gradients.take(name) else {
                return value;
            };
            let moments = self.moments.remove(name);
            let moments = moments.unwrap_or_else(|| Moments::start(&value));
            let decay = if rank > 1 {
                self.settings.weight_decay
            } else {
                0.0
            };
            let scale = norms.scale(name, self.settings.clip_norm);
            let pace = StepScale { scale, rate, decay };
            let (value, moments) = self.settings.moved(value, moments, gradient, pace);
            self.moments.insert(name.to_owned(), moments);
            value
        })
    }

    /// Moves the state of every parameter to the device that `place` gives for its name.
    pub fn place(&mut self, place: impl Fn(&str) -> Device) {
        let moments = std::mem::take(&mut self.moments).into_iter();
        let moved = moments.map(|(name, moments)| {
            let device = place(&name);
            let placed = Moments {
                steps: moments.steps,
                first: moments.first.to_device(&device),
                second: moments.second.to_device(&device),
                master: moments.master.map(|master| master.to_device(&device)),
            };
            (name, placed)
        });
        self.moments = moved.collect();
    }

    /// Writes the moments with PyTorch's names.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let mut tensors = Vec::with_capacity(3 * self.moments.len());
        for (parameter, moments) in &self.moments {
            // f32 counts steps exactly up to 16 million, like PyTorch's own counter.
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
                // With several devices, that of another may have been lost meanwhile.
                let values = host_values(tensor.clone(), &name)
                    .map_err(|error| failed(&tensor.device(), &error.to_string()))?;
                tensors.push(NamedTensor {
                    name,
                    shape: vec![values.len()],
                    values,
                });
            }
        }
        write_weights(path, &tensors, DType::F32)
    }

    /// Number of steps of each parameter that was updated.
    pub fn steps(&self) -> BTreeMap<String, usize> {
        let steps = self.moments.iter();
        steps
            .map(|(name, moments)| (name.clone(), moments.steps))
            .collect()
    }

    /// Describes moments that cannot result from `steps_done` steps of a model with parameters of
    /// these `lengths`; `None` when all can.
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

    /// Reads moments that [`save`](Self::save) wrote.
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
                // Mean squares cannot be negative.
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
