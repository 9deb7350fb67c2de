//! Exit policies in text form, for files and command lines.
//!
//! A rule is a criterion with thresholds, such as `confidence=12:0.95,20:0.9` or `patience=2`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::policy::error::PolicyError;
use crate::policy::exit_policy::{
    Confidence, Entropy, ExitPolicy, ExitSignals, Margin, Patience, Probed, Saturation,
};
use crate::policy::thresholds::Thresholds;

/// The quantity by which a policy decides whether a token exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Criterion {
    /// Highest probability: [`Confidence`].
    Confidence,
    /// Difference of the two highest probabilities: [`Margin`].
    Margin,
    /// Entropy: [`Entropy`].
    Entropy,
    /// Probability of the exit's probe: [`Probed`].
    Probe,
    /// Cosine similarity to the state at the previous exit: [`Saturation`].
    Saturation,
    /// Number of consecutive exits that agree: [`Patience`].
    Patience,
}

impl Criterion {
    /// All criteria.
    pub const ALL: [Self; 6] = [
        Self::Confidence,
        Self::Margin,
        Self::Entropy,
        Self::Probe,
        Self::Saturation,
        Self::Patience,
    ];

    /// The name, as parsed by [`FromStr`] and by serde.
    pub fn name(self) -> &'static str {
        match self {
            Self::Confidence => "confidence",
            Self::Margin => "margin",
            Self::Entropy => "entropy",
            Self::Probe => "probe",
            Self::Saturation => "saturation",
            Self::Patience => "patience",
        }
    }

    /// The value that is compared with a threshold; `None` if the signal was not computed, and for
    /// patience, which depends on several exits.
    pub fn of(self, signals: &ExitSignals) -> Option<f64> {
        let score = signals.score.as_ref();
        match self {
            Self::Confidence => score.map(|score| f64::from(score.probability)),
            Self::Margin => score.map(|score| f64::from(score.margin())),
            Self::Entropy => score.map(|score| f64::from(score.entropy)),
            Self::Probe => signals.probe.map(f64::from),
            Self::Saturation => signals.similarity.map(f64::from),
            Self::Patience => None,
        }
    }

    /// Whether small values mean high confidence.
    pub fn is_doubt(self) -> bool {
        self == Self::Entropy
    }

    /// The rule with these thresholds; `None` for patience, which has none.
    pub fn rule(self, thresholds: Thresholds) -> Option<ExitRule> {
        match self {
            Self::Confidence => Some(ExitRule::Confidence(thresholds)),
            Self::Margin => Some(ExitRule::Margin(thresholds)),
            Self::Entropy => Some(ExitRule::Entropy(thresholds)),
            Self::Probe => Some(ExitRule::Probe(thresholds)),
            Self::Saturation => Some(ExitRule::Saturation(thresholds)),
            Self::Patience => None,
        }
    }
}

impl fmt::Display for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Criterion {
    type Err = PolicyError;

    fn from_str(name: &str) -> Result<Self, PolicyError> {
        let found = Self::ALL
            .into_iter()
            .find(|criterion| criterion.name() == name);
        found.ok_or_else(|| PolicyError::UnknownCriterion {
            found: name.to_owned(),
        })
    }
}

/// A policy in text form: criterion, `=`, thresholds.
///
/// ```
/// use soft_core::policy::{Criterion, ExitRule};
///
/// let rule: ExitRule = "margin=12:0.8,20:0.6".parse()?;
/// assert_eq!(rule.criterion(), Criterion::Margin);
/// assert_eq!(rule.to_string(), "margin=12:0.8,20:0.6");
/// let policy = rule.policy();
/// # Ok::<(), soft_core::policy::PolicyError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ExitRule {
    /// [`Confidence`].
    Confidence(Thresholds),
    /// [`Margin`].
    Margin(Thresholds),
    /// [`Entropy`].
    Entropy(Thresholds),
    /// [`Probed`].
    Probe(Thresholds),
    /// [`Saturation`].
    Saturation(Thresholds),
    /// [`Patience`] with this number of exits.
    Patience(usize),
}

impl ExitRule {
    /// The policy of this rule.
    pub fn policy(&self) -> Box<dyn ExitPolicy> {
        match self.clone() {
            Self::Confidence(thresholds) => Box::new(Confidence(thresholds)),
            Self::Margin(thresholds) => Box::new(Margin(thresholds)),
            Self::Entropy(thresholds) => Box::new(Entropy(thresholds)),
            Self::Probe(thresholds) => Box::new(Probed(thresholds)),
            Self::Saturation(thresholds) => Box::new(Saturation(thresholds)),
            Self::Patience(exits) => Box::new(Patience::new(exits)),
        }
    }

    /// Returns an error for thresholds that the criterion never reaches: beyond 1 for probabilities
    /// and cosines. Policies accept them and never or always exit; in text they are mistakes.
    ///
    /// # Errors
    /// [`PolicyError::Unreachable`].
    pub fn check_range(&self) -> Result<(), PolicyError> {
        let (thresholds, range) = match self {
            Self::Confidence(thresholds) | Self::Margin(thresholds) | Self::Probe(thresholds) => {
                (thresholds, 0.0..=1.0)
            }
            Self::Entropy(thresholds) => (thresholds, 0.0..=f64::MAX),
            Self::Saturation(thresholds) => (thresholds, -1.0..=1.0),
            Self::Patience(_) => return Ok(()),
        };
        let outside = thresholds
            .values()
            .into_iter()
            .find(|it| !range.contains(it));
        outside.map_or(Ok(()), |found| {
            Err(PolicyError::Unreachable {
                criterion: self.criterion().name(),
                found,
                lowest: *range.start(),
                highest: *range.end(),
            })
        })
    }

    /// The criterion.
    pub fn criterion(&self) -> Criterion {
        match self {
            Self::Confidence(_) => Criterion::Confidence,
            Self::Margin(_) => Criterion::Margin,
            Self::Entropy(_) => Criterion::Entropy,
            Self::Probe(_) => Criterion::Probe,
            Self::Saturation(_) => Criterion::Saturation,
            Self::Patience(_) => Criterion::Patience,
        }
    }
}

impl fmt::Display for ExitRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=", self.criterion())?;
        match self {
            Self::Confidence(thresholds)
            | Self::Margin(thresholds)
            | Self::Entropy(thresholds)
            | Self::Probe(thresholds)
            | Self::Saturation(thresholds) => thresholds.fmt(f),
            Self::Patience(exits) => exits.fmt(f),
        }
    }
}

impl FromStr for ExitRule {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let malformed = || PolicyError::MalformedRule {
            found: text.to_owned(),
        };
        let (criterion, value) = text.split_once('=').ok_or_else(malformed)?;
        let criterion: Criterion = criterion.trim().parse()?;
        match criterion {
            Criterion::Patience => {
                let exits = value.trim().parse().map_err(|_| malformed())?;
                Ok(Self::Patience(exits))
            }
            _ => criterion.rule(value.parse()?).ok_or_else(malformed),
        }
    }
}

impl TryFrom<String> for ExitRule {
    type Error = PolicyError;

    fn try_from(text: String) -> Result<Self, PolicyError> {
        text.parse()
    }
}

impl From<ExitRule> for String {
    fn from(rule: ExitRule) -> Self {
        rule.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let rules = [
            "confidence=0.9",
            "margin=12:0.8",
            "entropy=0.5",
            "probe=2:0.9",
            "saturation=2:0.98",
            "patience=2",
        ];
        for text in rules {
            let rule: ExitRule = text.parse().unwrap();
            assert_eq!(rule.to_string(), text);
            let json = serde_json::to_string(&rule).unwrap();
            assert_eq!(serde_json::from_str::<ExitRule>(&json).unwrap(), rule);
        }
        for bad in ["", "confidence", "hunch=3", "patience=0.5", "margin="] {
            assert!(bad.parse::<ExitRule>().is_err(), "{bad:?} was accepted");
        }
    }
}
