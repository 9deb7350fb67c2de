//! Combines the gradient of the intermediate exits with that of the full depth.
//!
//! Their sum is the gradient of the sorted loss. Where the two conflict, that is point in
//! directions more than a right angle apart, a step along the sum gains less at the full depth than
//! one without the exits. The gradients are computed in two passes, so that such a step takes about
//! twice the time.
//!
//! Sources: projection onto the normal plane of a conflicting gradient, Yu et al., *PCGrad* (arXiv
//! 2001.06782), in the one-sided form of Chaudhry et al., *A-GEM* (arXiv 1812.00420, equation 11),
//! which leaves the reference gradient as it is. Differs from the paper: everything in this file.

use serde::{Deserialize, Serialize};

use crate::device_errors::{failed, guarded};
use crate::error::Error;
use crate::ops::transfers::{Numbers, read_all};
use crate::train::gradients::NamedGradients;
use crate::train::replicas::Replicas;

/// How the gradient of the intermediate exits is combined with that of the full depth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Combination {
    /// Their sum, as in the paper: one pass.
    #[default]
    Sum,
    /// The sum after each is clipped to the clip norm, so that neither outweighs the other.
    ClipApart,
    /// The sum, after removing from the exits' gradient what points against the full depth's.
    Project,
}

/// Gradients of two losses, by owner.
pub(crate) struct Apart {
    /// Of the loss of the full depth.
    pub full: Vec<NamedGradients>,
    /// Of the weighted losses of the intermediate exits.
    pub early: Vec<NamedGradients>,
}

/// Inner products of the two gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Products {
    full: f64,
    early: f64,
    both: f64,
}

impl Combination {
    /// The weights of an exit's loss in each pass, given those of all exits, the full depth last.
    pub(crate) fn passes(self, weights: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let Some((full, early)) = weights.split_last() else {
            return (Vec::new(), Vec::new());
        };
        if self == Self::Sum {
            return (weights.to_vec(), vec![0.0; weights.len()]);
        }
        let only_full = early.iter().map(|_| 0.0).chain([*full]).collect();
        let only_early = early.iter().copied().chain([0.0]).collect();
        (only_full, only_early)
    }

    /// The factors of both gradients in the combined one.
    fn factors(self, products: Products, clip_norm: Option<f64>) -> (f64, f64) {
        match self {
            Self::Sum => (1.0, 1.0),
            Self::ClipApart => {
                let clipped = |square: f64| {
                    let norm = square.sqrt();
                    clip_norm.map_or(1.0, |most| (most / (norm + 1e-6)).min(1.0))
                };
                (clipped(products.full), clipped(products.early))
            }
            // early − (early · full / |full|²) full, where the product is negative.
            Self::Project if products.both < 0.0 => (1.0 - products.both / products.full, 1.0),
            Self::Project => (1.0, 1.0),
        }
    }
}

impl Apart {
    /// The combined gradients, by owner.
    ///
    /// # Errors
    /// When a device fails.
    pub fn combined(
        self,
        how: Combination,
        clip_norm: Option<f64>,
        replicas: &Replicas,
    ) -> Result<Vec<NamedGradients>, Error> {
        if how == Combination::Sum {
            return Ok(self.full);
        }
        let mut products = Products::default();
        for ((full, early), model) in self.full.iter().zip(&self.early).zip(replicas.models()) {
            let device = model.device();
            let found = guarded(&device, || {
                let unread = vec![full.dot(full), early.dot(early), full.dot(early)];
                read_all(unread).map_err(|source| failed(&device, &source.to_string()))
            })?;
            let sum = |numbers: &Vec<f64>| numbers.iter().sum::<f64>();
            products.full += sum(&found[0]);
            products.early += sum(&found[1]);
            products.both += sum(&found[2]);
        }
        let factors = how.factors(products, clip_norm);
        let pairs = self.full.into_iter().zip(self.early).zip(replicas.models());
        let combined = pairs.map(|((full, early), model)| {
            guarded(&model.device(), || Ok(full.combined(early, factors)))
        });
        combined.collect()
    }
}

impl NamedGradients {
    /// The inner product with the gradients of the same parameters, one number per parameter.
    fn dot(&self, other: &Self) -> Numbers {
        let products = self.pairs(other).map(|(a, b)| (a * b).sum());
        let products: Vec<_> = products.collect();
        if products.is_empty() {
            return Numbers::none();
        }
        Numbers::Unread(burn::tensor::Tensor::cat(products, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_projected_gradient_does_not_oppose_the_full_depth() {
        let products = Products {
            full: 4.0,
            early: 9.0,
            both: -3.0,
        };
        let (a, b) = Combination::Project.factors(products, Some(1.0));
        // The combined gradient along the full depth's: as long as that is alone.
        let along = a * products.full + b * products.both;
        assert!((along - products.full).abs() < 1e-12);
        let agreeing = Products {
            both: 3.0,
            ..products
        };
        assert_eq!(Combination::Project.factors(agreeing, None), (1.0, 1.0));
    }

    #[test]
    fn gradients_are_clipped_each_for_itself() {
        let products = Products {
            full: 0.25,
            early: 9.0,
            both: 1.0,
        };
        let (full, early) = Combination::ClipApart.factors(products, Some(1.0));
        assert_eq!(full, 1.0);
        assert!((early - 1.0 / 3.0).abs() < 1e-6);
    }

    #[test]
    fn each_loss_has_a_pass() {
        let weights = [0.25, 0.25, 0.5];
        let (full, early) = Combination::Project.passes(&weights);
        assert_eq!(full, [0.0, 0.0, 0.5]);
        assert_eq!(early, [0.25, 0.25, 0.0]);
        let (all, none) = Combination::Sum.passes(&weights);
        assert_eq!((all, none), (weights.to_vec(), vec![0.0; 3]));
    }
}
