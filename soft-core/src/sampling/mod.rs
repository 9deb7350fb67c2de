//! Sampling of the next token, and exact speculative sampling.

pub(crate) mod acceptance;
pub(crate) mod distribution;
pub(crate) mod sampler;

pub use acceptance::{Verification, verify_draft};
pub use distribution::Distribution;
pub use sampler::{Sampling, SamplingError};
