//! The laws that every backend must satisfy, as functions for its tests.
//!
//! A law is stated once for all implementations of the traits: [`Laws`] of a model,
//! [`DecodingLaws`] of the decoder. A check returns [`LawBroken`] with what differs and where.

mod cache_laws;
mod case;
mod coverage;
mod decoding;
mod head_laws;
mod joining;
mod laws;
mod loss_laws;
mod model;
mod observe;
mod trial;
mod uncached;

pub use coverage::Coverage;
pub use decoding::{DecodingLaws, Equality};
pub use laws::Laws;

use thiserror::Error;

use crate::model::decode_model::DecodeModel;
use crate::model::nested::BatchModel;

/// Access to the results of a model, for the laws.
pub trait Observed: BatchModel + DecodeModel {
    /// Logits as numbers, `[batch][seq][vocab]`.
    ///
    /// # Errors
    /// When they cannot be read.
    fn logit_values(&self, logits: &Self::Logits) -> Result<Vec<Vec<Vec<f64>>>, Self::Error>;

    /// A loss as a number.
    ///
    /// # Errors
    /// When it cannot be read.
    fn loss_value(&self, loss: &Self::Loss) -> Result<f64, Self::Error>;
}

/// A law that a model violates.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LawBroken {
    /// The model returned an error.
    #[error("{law}: {source}")]
    Failed {
        /// The law.
        law: &'static str,
        /// The model's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Two numbers that should be equal are not.
    #[error("{law}: {place}: expected {expected}, found {found}")]
    Differs {
        /// The law.
        law: &'static str,
        /// The location.
        place: String,
        /// The expected value.
        expected: f64,
        /// The value that the model computed.
        found: f64,
    },
    /// A condition does not hold.
    #[error("{law}: {place}: {what}")]
    Untrue {
        /// The law.
        law: &'static str,
        /// The location.
        place: String,
        /// How it is violated.
        what: String,
    },
}

fn failed<E: std::error::Error + Send + Sync + 'static>(
    law: &'static str,
) -> impl Fn(E) -> LawBroken {
    move |source| LawBroken::Failed {
        law,
        source: Box::new(source),
    }
}
