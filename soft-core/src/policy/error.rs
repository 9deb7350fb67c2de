//! Errors of policies, thresholds and draft lengths.

use thiserror::Error;

use crate::exit::Exits;

/// An invalid exit policy or draft length.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A threshold outside its range.
    #[error(
        "threshold of {measure}{}: expected a number from {lowest} on, found {found}",
        at_exit(exit)
    )]
    Threshold {
        /// The measure that is compared with the threshold.
        measure: &'static str,
        /// The exit of the threshold; `None` if it applies to all.
        exit: Option<usize>,
        /// The threshold.
        found: f64,
        /// The lowest valid threshold.
        lowest: f64,
    },
    /// A threshold that is never reached.
    #[error("threshold of {criterion}: expected {lowest} to {highest}, found {found}")]
    Unreachable {
        /// The criterion.
        criterion: &'static str,
        /// The threshold.
        found: f64,
        /// The lowest valid threshold.
        lowest: f64,
        /// The highest valid threshold.
        highest: f64,
    },
    /// A threshold for an unknown exit.
    #[error("a threshold is given for exit {exit}: the exits are {exits}")]
    NoSuchExit {
        /// The exit.
        exit: usize,
        /// The available exits.
        exits: Exits,
    },
    /// A text that cannot be parsed as thresholds.
    #[error(
        "cannot read a threshold from {part:?}: expected 0.9, or exits with theirs: 12:0.95,20:0.9"
    )]
    Malformed {
        /// The part at fault.
        part: String,
    },
    /// An unknown criterion.
    #[error(
        "expected a criterion (confidence, margin, entropy, probe, saturation, patience), found {found:?}"
    )]
    UnknownCriterion {
        /// The name.
        found: String,
    },
    /// A text that cannot be parsed as a rule.
    #[error(
        "cannot read an exit rule from {found:?}: expected a criterion and its thresholds, such as confidence=0.9 or patience=2"
    )]
    MalformedRule {
        /// The text.
        found: String,
    },
    /// A policy that needs a probe at an exit that has none.
    #[error(
        "exit {exit} has no probe: expected one for every early exit (`soft calibrate` fits them)"
    )]
    NoProbe {
        /// The exit.
        exit: usize,
    },
    /// A probe for states of another width.
    #[error("the probe of exit {exit} has {found} weights: expected {expected}, the model's width")]
    ProbeWidth {
        /// The exit.
        exit: usize,
        /// Number of weights of the probe.
        found: usize,
        /// The width of the model's states.
        expected: usize,
    },
    /// A probe with a weight that is infinite or no number.
    #[error("the probe of exit {exit} has a weight that is not finite")]
    ProbeNotFinite {
        /// The exit.
        exit: usize,
    },
    /// A patience of 0 exits.
    #[error("a patience of 0 exits: expected at least 1")]
    NoPatience,
    /// An invalid draft length.
    #[error("draft length: expected {expected}, found {found}")]
    DraftLength {
        /// The invalid value.
        found: String,
        /// Accepted values.
        expected: &'static str,
    },
}

fn at_exit(exit: &Option<usize>) -> String {
    exit.map_or(String::new(), |exit| format!(" at exit {exit}"))
}
