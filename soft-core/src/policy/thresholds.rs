//! One threshold per exit, or one for all.
//!
//! Written "0.9", or "12:0.95,20:0.9" with exits. No token exits at an exit without a threshold.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Exits};
use crate::policy::error::PolicyError;

/// Thresholds of an exit policy.
///
/// ```
/// use soft_core::{Exit, Thresholds};
///
/// // The paper's thresholds for exits 12 to 36 of LLaMA 2 13B.
/// let paper: Thresholds = "12:.95,16:.95,20:.9,24:.9,28:.8,32:.8,36:.7".parse()?;
/// assert_eq!(paper.at(Exit::new(28)?), Some(0.8));
/// assert_eq!(paper.at(Exit::new(40)?), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Thresholds(Values);

#[derive(Clone, Debug, PartialEq)]
enum Values {
    All(f64),
    Each(Vec<(Exit, f64)>),
}

impl Thresholds {
    /// The same threshold at every exit.
    pub fn all(threshold: f64) -> Self {
        Self(Values::All(threshold))
    }

    /// A threshold for each of these exits.
    pub fn each(thresholds: impl IntoIterator<Item = (Exit, f64)>) -> Self {
        Self(Values::Each(thresholds.into_iter().collect()))
    }

    /// The threshold at `exit`; `None` when no token exits there.
    pub fn at(&self, exit: Exit) -> Option<f64> {
        match &self.0 {
            Values::All(threshold) => Some(*threshold),
            Values::Each(each) => each
                .iter()
                .find(|(candidate, _)| *candidate == exit)
                .map(|(_, threshold)| *threshold),
        }
    }

    /// All thresholds, without their exits.
    pub fn values(&self) -> Vec<f64> {
        match &self.0 {
            Values::All(threshold) => vec![*threshold],
            Values::Each(each) => each.iter().map(|(_, threshold)| *threshold).collect(),
        }
    }

    /// Returns an error for thresholds outside `range` and for those of unknown exits.
    pub(crate) fn check(
        &self,
        measure: &'static str,
        range: RangeInclusive<f64>,
        exits: &Exits,
    ) -> Result<(), PolicyError> {
        let check = |exit: Option<Exit>, threshold: f64| {
            if range.contains(&threshold) {
                return Ok(());
            }
            Err(PolicyError::Threshold {
                measure,
                exit: exit.map(Exit::depth),
                found: threshold,
                lowest: *range.start(),
            })
        };
        match &self.0 {
            Values::All(threshold) => check(None, *threshold),
            Values::Each(each) => each.iter().try_for_each(|&(exit, threshold)| {
                if !exits.contains(exit) {
                    return Err(PolicyError::NoSuchExit {
                        exit: exit.depth(),
                        exits: exits.clone(),
                    });
                }
                check(Some(exit), threshold)
            }),
        }
    }
}

impl fmt::Display for Thresholds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Values::All(threshold) => threshold.fmt(f),
            Values::Each(each) => {
                for (index, (exit, threshold)) in each.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{exit}:{threshold}")?;
                }
                Ok(())
            }
        }
    }
}

impl FromStr for Thresholds {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let malformed = |part: &str| PolicyError::Malformed {
            part: part.to_owned(),
        };
        if let Ok(threshold) = text.trim().parse() {
            return Ok(Self::all(threshold));
        }
        let pair = |part: &str| {
            let (exit, threshold) = part.split_once(':')?;
            let exit = Exit::new(exit.trim().parse().ok()?).ok()?;
            Some((exit, threshold.trim().parse().ok()?))
        };
        let mut pairs: Vec<(Exit, f64)> = Vec::new();
        for part in text.split(',') {
            let (exit, threshold) = pair(part).ok_or_else(|| malformed(part))?;
            if pairs.iter().any(|(earlier, _)| *earlier == exit) {
                return Err(malformed(part));
            }
            pairs.push((exit, threshold));
        }
        Ok(Self::each(pairs))
    }
}

impl TryFrom<String> for Thresholds {
    type Error = PolicyError;

    fn try_from(text: String) -> Result<Self, PolicyError> {
        text.parse()
    }
}

impl From<Thresholds> for String {
    fn from(thresholds: Thresholds) -> Self {
        thresholds.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for text in ["0.9", "12:0.95,20:0.5"] {
            assert_eq!(text.parse::<Thresholds>().unwrap().to_string(), text);
        }
        for bad in ["", "x", "12=3", "0:0.5", "12:", "12:0.5,,", "2:0.5,2:0.6"] {
            assert!(bad.parse::<Thresholds>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn refuses_what_lies_outside_and_names_it() {
        let exits = Exits::new([2, 4]).unwrap();
        let check = |text: &str| {
            let thresholds: Thresholds = text.parse().unwrap();
            thresholds.check("maximum probability", 0.0..=f64::INFINITY, &exits)
        };
        assert!(check("1.5").is_ok(), "above 1 means never");
        assert!(check("NaN").is_err());
        let message = check("2:-0.5").unwrap_err().to_string();
        assert!(
            message.contains("-0.5") && message.contains("exit 2"),
            "{message}"
        );
        let message = check("3:0.5").unwrap_err().to_string();
        assert!(
            message.contains('3') && message.contains("2,4"),
            "{message}"
        );
    }
}
