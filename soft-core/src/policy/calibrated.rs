//! Calibrated exit thresholds, as they are stored with a model.

use serde::{Deserialize, Serialize};

use crate::exit::Exits;
use crate::policy::rule::ExitRule;

/// A rule by which at most a stated share of tokens differs from the full model's, and what that
/// statement rests on.
///
/// The promise is for text like that it was calibrated on: with probability
/// [`confidence`](Self::confidence) over the choice of those texts, the share of all tokens that
/// leave with another token than the full model names on the same text is at most
/// [`disagreement`](Self::disagreement).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibratedExits {
    /// When a token exits.
    pub rule: ExitRule,
    /// Where tokens may exit; the last is the full model.
    pub exits: Exits,
    /// Highest share of tokens that disagree with the full model, from 0 to 1.
    pub disagreement: f64,
    /// Confidence of that statement, from 0 to 1.
    pub confidence: f64,
    /// Mean depth at which the tokens of the calibration texts were named.
    pub mean_depth: f64,
    /// Texts that the promise was tested on.
    pub texts: u64,
    /// Tokens of these.
    pub tokens: u64,
    /// Where the texts come from. Free form.
    #[serde(default)]
    pub data: String,
}
