//! Early exits of tokens: signals, policies, thresholds, calibrated rules.

pub(crate) mod calibrated;
pub(crate) mod error;
pub(crate) mod exit_policy;
pub(crate) mod probe;
pub(crate) mod rule;
pub(crate) mod thresholds;

pub use calibrated::{CalibratedExits, ExitHead};
pub use error::PolicyError;
pub use exit_policy::{
    Always, Both, Confidence, Either, Entropy, ExitDecision, ExitPolicy, ExitSignals, ForRow,
    Margin, Patience, Probed, Saturation, Signal,
};
pub use probe::{ExitProbe, ExitProbes, cosine_similarity, probe_features};
pub use rule::{Criterion, ExitRule};
pub use thresholds::Thresholds;
