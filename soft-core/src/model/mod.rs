//! The interfaces of a model: nested forward passes, losses, decoding, and a cache.

pub(crate) mod cache;
pub(crate) mod cache_lengths;
pub(crate) mod decode_model;
pub(crate) mod nested;
mod walk;

pub use cache::KvCache;
pub use cache_lengths::{CacheError, CacheLengths};
pub use decode_model::{DecodeModel, Head, Score};
pub use nested::{BatchModel, NestedModel, Past, ScoreSum, TargetScore, TrainModel};
pub use walk::Stop;
