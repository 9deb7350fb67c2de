//! Gradients by parameter name, summed over micro-batches, and their norms.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{Device, Tensor, TensorReadError};

use crate::dtype::to_f32;
use crate::model::exit_blocks::EXIT_BLOCKS;
use crate::model::exit_heads::EXIT_HEADS;
use crate::ops::adamw::squares;
use crate::ops::transfers::{Numbers, read_all};

/// Norms before clipping: of the gradients of the model itself, and of those of heads and blocks
/// that exits have of their own.
///
/// Clipped together, exits would slow down a model that they have no other influence on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct GradientNorms {
    pub model: f64,
    pub exits: f64,
}

impl GradientNorms {
    /// The norms, given parameters and the squared norms of their gradients; as an error, the name
    /// of the first that is not finite.
    pub fn of<'a>(squares: impl IntoIterator<Item = (&'a str, f64)>) -> Result<Self, String> {
        let mut sums = Self::default();
        for (name, square) in squares {
            if !square.is_finite() {
                return Err(name.to_owned());
            }
            if is_of_an_exit(name) {
                sums.exits += square;
            } else {
                sums.model += square;
            }
        }
        Ok(Self {
            model: sums.model.sqrt(),
            exits: sums.exits.sqrt(),
        })
    }

    /// The norm of all gradients.
    pub fn total(self) -> f64 {
        self.model.hypot(self.exits)
    }

    /// The factor that clips the gradient of `name`.
    pub fn scale(self, name: &str, most: Option<f64>) -> f64 {
        let norm = if is_of_an_exit(name) {
            self.exits
        } else {
            self.model
        };
        most.map_or(1.0, |most| (most / (norm + 1e-6)).min(1.0))
    }
}

/// Whether a parameter belongs to the head or block of an exit.
fn is_of_an_exit(name: &str) -> bool {
    name.starts_with(EXIT_BLOCKS) || name.starts_with(EXIT_HEADS)
}

/// Flattened gradients by parameter name, summed over micro-batches.
#[derive(Debug, Default)]
pub(crate) struct NamedGradients(BTreeMap<String, Tensor<1>>);

impl NamedGradients {
    /// Sums are in f32; a gradient alone keeps its type.
    pub fn add(&mut self, name: String, gradient: Tensor<1>) {
        let sum = match self.0.remove(&name) {
            Some(sum) => to_f32(sum) + to_f32(gradient),
            None => gradient,
        };
        self.0.insert(name, sum);
    }

    pub fn add_all(&mut self, gradients: Vec<(String, Tensor<1>)>) {
        for (name, gradient) in gradients {
            self.add(name, gradient);
        }
    }

    /// The gradients, in the order of their names.
    pub fn into_named(self) -> impl Iterator<Item = (String, Tensor<1>)> {
        self.0.into_iter()
    }

    /// The L2 norm of the difference from `other`, which lives on `device`.
    pub fn distance(mut self, other: Self, device: &Device) -> Result<f64, TensorReadError> {
        let differences = other.0.into_iter().map(|(name, theirs)| {
            let ours = self.0.remove(&name).map(|ours| ours.to_device(device));
            match ours {
                Some(ours) => to_f32(ours) - to_f32(theirs),
                None => theirs,
            }
        });
        let differences: Vec<_> = differences.collect();
        let squares = squares(&differences.iter().collect::<Vec<_>>());
        let squares = read_all(vec![squares])?.concat();
        Ok(squares.iter().sum::<f64>().sqrt())
    }

    /// The gradients of the parameters that both have, in f32.
    pub fn pairs<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = (Tensor<1>, Tensor<1>)> + 'a {
        self.0.iter().filter_map(|(name, gradient)| {
            let other = other.0.get(name)?;
            Some((to_f32(gradient.clone()), to_f32(other.clone())))
        })
    }

    /// The sum of these and other gradients, each multiplied by its factor.
    pub fn combined(self, other: Self, factors: (f64, f64)) -> Self {
        let mut sum = Self::default();
        for (gradients, factor) in [(self, factors.0), (other, factors.1)] {
            for (name, gradient) in gradients.into_named() {
                sum.add(name, gradient.mul_scalar(factor));
            }
        }
        sum
    }

    /// The squared norm of each gradient.
    pub fn squares(&self) -> Numbers {
        squares(&self.0.values().collect::<Vec<_>>())
    }

    /// The parameters and these [`squares`](Self::squares) of theirs.
    pub fn with_squares(&self, squares: &[f64]) -> impl Iterator<Item = (&str, f64)> {
        let names = self.0.keys().map(String::as_str);
        names.zip(squares.iter().copied())
    }

    /// The parameters that have a gradient.
    pub fn names(&self) -> BTreeSet<String> {
        self.0.keys().cloned().collect()
    }

    /// Removes the flattened gradient of `name`.
    pub fn take(&mut self, name: &str) -> Option<Tensor<1>> {
        self.0.remove(name)
    }
}
