//! Calibrated exit thresholds, as stored with a model.

use serde::{Deserialize, Serialize};

use crate::exit::Exits;
use crate::policy::rule::ExitRule;

/// A rule with a bound on the share of tokens that differ from the full model's, and its basis.
///
/// The guarantee is for text like that used for calibration: with probability
/// [`confidence`](Self::confidence) over the choice of those texts, the share of all tokens that
/// exit early with a token other than the full model's for the same text is at most
/// [`disagreement`](Self::disagreement).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibratedExits {
    /// Decides when a token exits.
    pub rule: ExitRule,
    /// The exits; the last is the full model.
    pub exits: Exits,
    /// Maximum share of tokens that disagree with the full model, from 0 to 1.
    pub disagreement: f64,
    /// Confidence of the guarantee, from 0 to 1.
    pub confidence: f64,
    /// Mean depth at which the tokens of the calibration texts were generated.
    pub mean_depth: f64,
    /// Number of texts on which the guarantee was tested.
    pub texts: u64,
    /// Number of tokens of these texts.
    pub tokens: u64,
    /// The origin of the texts. Free form.
    #[serde(default)]
    pub data: String,
}
