//! Decoding with LLaMA: the cache, packed states, and the fast way on flex.

pub(crate) mod cache;
pub(crate) mod decode_model;
#[cfg(feature = "flex")]
pub(crate) mod host;
pub(crate) mod nested_model;
pub(crate) mod packed;
