//! Decoding at any depth: static, dynamic, self-speculative and automatic, greedy or sampled.

mod calibration;
pub(crate) mod cost;
pub(crate) mod decoder;
pub(crate) mod draft;
mod early_exit;
mod engine;
mod exit_blocks;
mod head;
pub(crate) mod logprobs;
mod mean;
mod mode_spec;
mod packed;
mod round;
pub(crate) mod row;
mod row_exits;
pub(crate) mod settings;
mod signals;
pub(crate) mod start;
pub(crate) mod statistics;
pub(crate) mod step;
mod strategies;
mod strategy;
pub(crate) mod tuner;
mod verify;

pub use cost::OperationCosts;
pub use decoder::Decoder;
pub use draft::DraftLength;
pub use logprobs::{Logprobs, TokenLogprobs};
pub use mode_spec::{DraftExit, ModeError, ModeSpec};
pub use row::Finish;
pub use settings::{
    DecodeError, DecodeSettings, DynamicExits, Mode, Prompt, SettingsError, Speculation,
};
pub use start::SharedSettings;
pub use statistics::Statistics;
pub use step::Step;
pub use tuner::Tuner;
