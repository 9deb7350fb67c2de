//! What a model offers: nested forward passes, losses, decoding, a cache.

pub(crate) mod cache_lengths;
pub(crate) mod decode_model;
pub(crate) mod nested;

pub use cache_lengths::{CacheError, CacheLengths};
pub use decode_model::{DecodeModel, Head, Score};
pub use nested::{
    BatchModel, ExitHead, KvCache, NestedModel, NoCache, Past, ScoreSum, TargetScore, TrainModel,
};
