//! Errors of policies, thresholds and draft lengths.

use thiserror::Error;

use crate::exit::Exits;

/// An exit policy, or a draft length, that makes no sense.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A threshold outside its range.
    #[error(
        "threshold of {measure}{}: expected a number from {lowest} on, found {found}",
        at_exit(exit)
    )]
    Threshold {
        /// What is compared with the threshold.
        measure: &'static str,
        /// The exit it is for; none when it is for all.
        exit: Option<usize>,
        /// The threshold.
        found: f64,
        /// The lowest that makes sense.
        lowest: f64,
    },
    /// A threshold that is never reached.
    #[error("threshold of {criterion}: expected {lowest} to {highest}, found {found}")]
    Unreachable {
        /// The criterion.
        criterion: &'static str,
        /// The threshold.
        found: f64,
        /// The lowest that makes sense.
        lowest: f64,
        /// The highest.
        highest: f64,
    },
    /// A threshold for an exit that is not there.
    #[error("a threshold is given for exit {exit}: the exits are {exits}")]
    NoSuchExit {
        /// The exit.
        exit: usize,
        /// Those that are there.
        exits: Exits,
    },
    /// A text that gives no thresholds.
    #[error(
        "cannot read a threshold from {part:?}: expected 0.9, or exits with theirs: 12:0.95,20:0.9"
    )]
    Malformed {
        /// The part at fault.
        part: String,
    },
    /// A criterion that is none.
    #[error(
        "expected a criterion (confidence, margin, entropy, saturation, patience), found {found:?}"
    )]
    UnknownCriterion {
        /// What was given.
        found: String,
    },
    /// A text that is no rule.
    #[error(
        "cannot read an exit rule from {found:?}: expected a criterion and its thresholds, such as confidence=0.9 or patience=2"
    )]
    MalformedRule {
        /// What was given.
        found: String,
    },
    /// A patience of no exits.
    #[error("a patience of 0 exits: expected at least 1")]
    NoPatience,
    /// A draft length that drafts nothing.
    #[error("draft length: expected {expected}, found {found}")]
    DraftLength {
        /// What is wrong.
        found: String,
        /// What would be accepted.
        expected: &'static str,
    },
}

fn at_exit(exit: &Option<usize>) -> String {
    exit.map_or(String::new(), |exit| format!(" at exit {exit}"))
}
