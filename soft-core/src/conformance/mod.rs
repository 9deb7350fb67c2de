//! The laws every backend must obey, as functions that its tests call.
//!
//! A law is stated once and holds for every implementation of the traits: [`Laws`] of a model,
//! [`DecodingLaws`] of what the decoder makes of it. Each check returns [`LawBroken`] with what
//! differed and where.

mod cache_laws;
mod case;
mod coverage;
mod decoding;
mod head_laws;
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

/// What a law needs to see of a model: inputs made, outputs read.
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

/// A law that a model does not obey.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LawBroken {
    /// The model failed where the law wants an answer.
    #[error("{law}: {source}")]
    Failed {
        /// The law.
        law: &'static str,
        /// What the model said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Two numbers that should be equal are not.
    #[error("{law}: {place}: expected {expected}, found {found}")]
    Differs {
        /// The law.
        law: &'static str,
        /// Where.
        place: String,
        /// What the law wants.
        expected: f64,
        /// What the model computed.
        found: f64,
    },
    /// What should hold does not.
    #[error("{law}: {place}: {what}")]
    Untrue {
        /// The law.
        law: &'static str,
        /// Where.
        place: String,
        /// What is the case instead.
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
