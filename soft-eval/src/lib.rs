//! From nested models to figures: how good is every exit?
mod answers;
mod bootstrap;
mod calibration;
mod candidates;
mod error;
mod exit_scores;
mod journal;
mod trace;
pub use answers::{exact_match, exact_match_normalised, f1, normalise};
pub use bootstrap::{Bootstrap, Interval};
pub use calibration::{Calibration, CalibrationSettings, calibrate};
pub use error::EvalError;
pub use exit_scores::{AnswerScores, ExitScores, exit_scores};
pub use journal::Journal;
pub use trace::{EarlyTrace, Left, PolicyOutcome, TokenTrace, trace};
