//! Calibrated exit thresholds, as stored with a model.

use serde::{Deserialize, Serialize};

use crate::exit::Exits;
use crate::policy::rule::ExitRule;
use crate::sampling::Sampling;

/// The head that early exits use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExitHead {
    /// The head of the exit, for all tokens.
    #[default]
    Full,
    /// The exit's head restricted to the draft tokens: cheaper, and its token is always one of
    /// them.
    Draft,
}

impl ExitHead {
    /// The name of dynamic decoding by this rule with this head, as
    /// [`ModeSpec`](crate::decode::ModeSpec) reads it.
    pub fn mode_of(self, rule: &ExitRule) -> String {
        match self {
            Self::Full => format!("dynamic:{rule}"),
            Self::Draft => format!("dynamic:draft:{rule}"),
        }
    }
}

/// A rule with a bound on the share of tokens that differ from the full model's, and its basis.
///
/// The guarantee is for text like that used for calibration: with probability
/// [`confidence`](Self::confidence) over the choice of those texts, the share of all tokens that
/// exit early with a token other than the full model's for the same text is at most
/// [`disagreement`](Self::disagreement). It is for greedy decoding of answers that are not longer
/// than [`longest`](Self::longest).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibratedExits {
    /// Decides when a token exits.
    pub rule: ExitRule,
    /// The exits; the last is the full model.
    pub exits: Exits,
    /// The head of the early exits.
    #[serde(default)]
    pub head: ExitHead,
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
    /// Maximum number of tokens of a text that the test allowed, with the end of the answer;
    /// `None` in files of earlier versions.
    #[serde(default)]
    pub longest: Option<u64>,
    /// The origin of the texts. Free form.
    #[serde(default)]
    pub data: String,
}

impl CalibratedExits {
    /// The decoding mode by name, as [`ModeSpec`](crate::decode::ModeSpec) reads it.
    pub fn mode(&self) -> String {
        self.head.mode_of(&self.rule)
    }

    /// Why the guarantee does not hold for answers of at most `max_new_tokens` tokens, without
    /// their end, and this sampling; `None` if it does.
    pub fn beyond(&self, max_new_tokens: usize, sampling: &Sampling) -> Option<String> {
        if sampling.temperature != 0.0 || sampling.repetition_penalty != 1.0 {
            return Some("it is for greedy decoding without a repetition penalty".to_owned());
        }
        let most = self.longest?.saturating_sub(1);
        (max_new_tokens as u64 > most)
            .then(|| format!("it is for at most {most} new tokens, not {max_new_tokens}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Thresholds;

    #[test]
    fn a_guarantee_ends_where_its_test_did() {
        let calibrated = CalibratedExits {
            rule: ExitRule::Confidence(Thresholds::all(0.9)),
            exits: Exits::new([1, 2]).unwrap(),
            head: ExitHead::Full,
            disagreement: 0.05,
            confidence: 0.95,
            mean_depth: 1.5,
            texts: 10,
            tokens: 100,
            longest: Some(49),
            data: String::new(),
        };
        let greedy = Sampling::greedy();
        assert_eq!(calibrated.beyond(48, &greedy), None);
        assert!(calibrated.beyond(49, &greedy).unwrap().contains("48 new"));
        let sampled = Sampling {
            temperature: 0.7,
            ..greedy
        };
        assert!(calibrated.beyond(8, &sampled).unwrap().contains("greedy"));
        let penalized = Sampling {
            repetition_penalty: 1.1,
            ..greedy
        };
        assert!(calibrated.beyond(8, &penalized).is_some());
        let earlier = CalibratedExits {
            longest: None,
            ..calibrated
        };
        assert_eq!(earlier.beyond(1000, &greedy), None);
    }
}
