//! Decoding modes and draft lengths by name, as in command lines and configurations.

use std::num::{ParseFloatError, ParseIntError};
use std::str::FromStr;

use thiserror::Error;

use crate::decode::draft::DraftLength;
use crate::exit::{Exit, ExitError};
use crate::policy::calibrated::ExitHead;
use crate::policy::error::PolicyError;
use crate::policy::rule::ExitRule;

/// A decoding mode by name: `full`, `exit=12`, `dynamic`, `dynamic:margin=12:0.8,20:0.6`,
/// `dynamic:draft:margin=0.8`, `speculative`, `speculative=12`, `speculative=dynamic` or `auto`.
#[derive(Clone, Debug, PartialEq)]
pub enum ModeSpec {
    /// The full model.
    Full,
    /// The sub-model of one exit.
    Exit(Exit),
    /// Dynamic exits by a rule that is given elsewhere.
    Dynamic,
    /// Dynamic exits by this rule, with this head of the early exits.
    DynamicBy(ExitRule, ExitHead),
    /// Self-speculation.
    Speculative(DraftExit),
    /// Automatic speculation.
    Auto,
}

/// Where drafts exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DraftExit {
    /// At the first exit.
    First,
    /// At this exit.
    At(Exit),
    /// Where a rule that is given elsewhere decides.
    ByRule,
}

/// A mode or draft length that cannot be parsed.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum ModeError {
    /// An unknown mode.
    #[error(
        "unknown mode {found:?}: expected full, exit=N, dynamic, dynamic:RULE, dynamic:draft:RULE, \
         speculative, \
         speculative=N, speculative=dynamic or auto"
    )]
    Unknown {
        /// The name.
        found: String,
    },
    /// An exit that is not a number.
    #[error("exit {found:?}: expected a depth, such as 12")]
    Exit {
        /// The text.
        found: String,
        /// The parse error.
        source: ParseIntError,
    },
    /// An invalid exit.
    #[error(transparent)]
    Depth(#[from] ExitError),
    /// A rule that cannot be parsed.
    #[error(transparent)]
    Rule(#[from] PolicyError),
    /// A draft length that is not a number.
    #[error("draft length {found:?}: expected a number, adaptive or confident=0.3")]
    Length {
        /// The text.
        found: String,
        /// The parse error, if any.
        source: Option<ParseIntError>,
    },
    /// A probability that is not a number.
    #[error("draft length {found:?}: expected confident=0.3")]
    Confidence {
        /// The text.
        found: String,
        /// The parse error.
        source: ParseFloatError,
    },
}

impl ModeSpec {
    /// Whether the mode needs a rule that is given elsewhere.
    pub fn needs_rule(&self) -> bool {
        matches!(self, Self::Dynamic | Self::Speculative(DraftExit::ByRule))
    }

    /// Whether the mode is self-speculation at exits of the caller's choice.
    pub fn drafts(&self) -> bool {
        matches!(self, Self::Speculative(_))
    }

    /// Whether the mode chooses among several exits.
    pub fn chooses_exits(&self) -> bool {
        match self {
            Self::Full | Self::Exit(_) | Self::Speculative(DraftExit::At(_)) => false,
            Self::Dynamic | Self::DynamicBy(..) | Self::Speculative(_) | Self::Auto => true,
        }
    }
}

impl FromStr for ModeSpec {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        if let Some(rule) = text.strip_prefix("dynamic:") {
            let (rule, head) = match rule.strip_prefix("draft:") {
                Some(rule) => (rule, ExitHead::Draft),
                None => (rule, ExitHead::Full),
            };
            let rule: ExitRule = rule.parse()?;
            rule.check_range()?;
            return Ok(Self::DynamicBy(rule, head));
        }
        Ok(match text.split_once('=').unwrap_or((text, "")) {
            ("full", "") => Self::Full,
            ("exit", exit) => Self::Exit(exit_of(exit)?),
            ("dynamic", "") => Self::Dynamic,
            ("speculative", "") => Self::Speculative(DraftExit::First),
            ("speculative", "dynamic") => Self::Speculative(DraftExit::ByRule),
            ("speculative", exit) => Self::Speculative(DraftExit::At(exit_of(exit)?)),
            ("auto", "") => Self::Auto,
            _ => {
                return Err(ModeError::Unknown {
                    found: text.to_owned(),
                });
            }
        })
    }
}

fn exit_of(text: &str) -> Result<Exit, ModeError> {
    let depth = text.parse().map_err(|source| ModeError::Exit {
        found: text.to_owned(),
        source,
    })?;
    Ok(Exit::new(depth)?)
}

/// Maximum length of a draft whose length is not fixed.
const MOST: usize = 8;

/// `4`, `adaptive` (initially 3, up to 8) or `confident=0.3` (up to 8).
impl FromStr for DraftLength {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        let found = || text.to_owned();
        match text.split_once('=').unwrap_or((text, "")) {
            ("adaptive", "") => Ok(Self::Adaptive {
                start: 3,
                most: MOST,
            }),
            ("confident", least) => {
                let least = least.parse().map_err(|source| ModeError::Confidence {
                    found: found(),
                    source,
                })?;
                Ok(Self::Confident { least, most: MOST })
            }
            (number, "") => {
                let tokens = number.parse().map_err(|source| ModeError::Length {
                    found: found(),
                    source: Some(source),
                })?;
                Ok(Self::Fixed(tokens))
            }
            _ => Err(ModeError::Length {
                found: found(),
                source: None,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_by_name() {
        let read = |text: &str| text.parse::<ModeSpec>().unwrap();
        let exit = |depth| Exit::new(depth).unwrap();
        assert_eq!(read("full"), ModeSpec::Full);
        assert_eq!(read("exit=12"), ModeSpec::Exit(exit(12)));
        assert_eq!(read("dynamic"), ModeSpec::Dynamic);
        let by = |head| ModeSpec::DynamicBy("margin=12:0.8".parse().unwrap(), head);
        assert_eq!(read("dynamic:margin=12:0.8"), by(ExitHead::Full));
        assert_eq!(read("dynamic:draft:margin=12:0.8"), by(ExitHead::Draft));
        for (text, draft) in [
            ("speculative", DraftExit::First),
            ("speculative=6", DraftExit::At(exit(6))),
            ("speculative=dynamic", DraftExit::ByRule),
        ] {
            assert_eq!(read(text), ModeSpec::Speculative(draft));
        }
        assert_eq!(read("auto"), ModeSpec::Auto);
        for text in [
            "",
            "Full",
            "exit",
            "exit=0",
            "exit=x",
            "auto=1",
            "dynamic=1",
            "dynamic:draft",
        ] {
            assert!(text.parse::<ModeSpec>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn draft_lengths_are_read_by_name() {
        let read = |text: &str| text.parse::<DraftLength>().unwrap();
        assert_eq!(read("4"), DraftLength::Fixed(4));
        assert_eq!(
            read("adaptive"),
            DraftLength::Adaptive { start: 3, most: 8 }
        );
        let confident = DraftLength::Confident {
            least: 0.3,
            most: 8,
        };
        assert_eq!(read("confident=0.3"), confident);
        for text in ["", "many", "adaptive=2", "confident", "4=4"] {
            assert!(text.parse::<DraftLength>().is_err(), "{text:?}");
        }
    }
}
