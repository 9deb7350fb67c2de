//! Decoding at any depth: static, dynamic, self-speculative and automatic, greedy or sampled.

mod calibrated;
mod calibration;
mod check;
mod cost;
mod decoder;
mod draft;
mod leave;
mod mean;
mod model;
mod packed;
mod policy;
mod round;
mod row;
mod rule;
mod settings;
mod start;
mod statistics;
mod thresholds;
mod tuner;

pub use calibrated::CalibratedExits;
pub use cost::OperationCosts;
pub use decoder::{Decoder, Step};
pub use draft::DraftLength;
pub use model::{DecodeModel, Head, Score};
pub use policy::{
    Always, Both, Confidence, Either, Entropy, ExitDecision, ExitPolicy, ExitSignals, Margin,
    Patience, Saturation, Signal,
};
pub use row::Finish;
pub use rule::{Criterion, ExitRule};
pub use settings::{
    DecodeError, DecodeSettings, DynamicExits, Mode, Prompt, SettingsError, Speculation,
};
pub use statistics::Statistics;
pub use thresholds::Thresholds;
pub use tuner::Tuner;
