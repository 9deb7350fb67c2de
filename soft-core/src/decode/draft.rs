//! The number of tokens drafted before the full model verifies them.
//!
//! The decoder also ends a draft at a stop token and at the maximum length of the answer.

use serde::{Deserialize, Serialize};

use crate::policy::error::PolicyError;

/// The length of drafts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum DraftLength {
    /// A fixed number of tokens.
    Fixed(usize),
    /// One more after a draft that was accepted in full, one less after a rejection; 1 to `most`.
    Adaptive {
        /// Length of the first draft.
        start: usize,
        /// Maximum length of a draft.
        most: usize,
    },
    /// Drafts while the whole draft is probable: while the product of the draft head's highest
    /// probabilities at its positions is at least `least`. The token that would take it lower is
    /// not drafted; the full model generates it when it verifies the draft.
    Confident {
        /// Minimum probability of a draft.
        least: f64,
        /// Maximum length of a draft.
        most: usize,
    },
}

impl DraftLength {
    /// Returns an error for lengths of 0 and for probabilities outside 0 to 1.
    ///
    /// # Errors
    /// [`PolicyError::DraftLength`].
    pub fn validate(self) -> Result<(), PolicyError> {
        let refuse = |found: String, expected| Err(PolicyError::DraftLength { found, expected });
        match self {
            Self::Fixed(0) => refuse("0".to_owned(), "at least 1 token"),
            Self::Adaptive { start, most } if start == 0 || start > most => {
                refuse(format!("start {start}, most {most}"), "1 ≤ start ≤ most")
            }
            Self::Confident { most: 0, .. } => refuse("0".to_owned(), "at least 1 token"),
            Self::Confident { least, .. } if !(0.0..=1.0).contains(&least) => {
                refuse(format!("probability {least}"), "a probability, 0 to 1")
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn needs_probability(self) -> bool {
        matches!(self, Self::Confident { .. })
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct DraftLimit {
    length: DraftLength,
    current: usize,
}

impl DraftLimit {
    pub fn new(length: DraftLength) -> Self {
        let current = match length {
            DraftLength::Fixed(tokens) => tokens,
            DraftLength::Adaptive { start, .. } => start,
            DraftLength::Confident { most, .. } => most,
        };
        Self { length, current }
    }

    /// Maximum length of the current draft.
    pub fn most(&self) -> usize {
        self.current
    }

    /// Whether a draft of this probability is too improbable.
    pub fn is_doubtful(&self, probability: f64) -> bool {
        matches!(self.length, DraftLength::Confident { least, .. } if probability < least)
    }

    /// Adapts the length to a verified draft.
    pub fn checked(&mut self, drafted: usize, accepted: usize) {
        if let DraftLength::Adaptive { most, .. } = self.length {
            // An accepted draft that the end of the answer cut short does not justify longer ones.
            if accepted < drafted {
                self.current = self.current.saturating_sub(1).max(1);
            } else if drafted == self.current {
                self.current = (self.current + 1).min(most);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adaptive_lengths_grow_and_shrink_within_their_bounds() {
        let mut limit = DraftLimit::new(DraftLength::Adaptive { start: 2, most: 3 });
        for (checked, most) in [
            ((2, 2), 3),
            ((3, 3), 3),
            ((1, 1), 3),
            ((3, 0), 2),
            ((2, 1), 1),
            ((1, 0), 1),
        ] {
            limit.checked(checked.0, checked.1);
            assert_eq!(limit.most(), most, "after {checked:?}");
        }
    }

    #[test]
    fn only_confident_drafts_can_be_doubtful() {
        let limit = DraftLimit::new(DraftLength::Confident {
            least: 0.5,
            most: 4,
        });
        assert!(limit.is_doubtful(0.4) && !limit.is_doubtful(0.5));
        assert!(!DraftLimit::new(DraftLength::Fixed(2)).is_doubtful(0.0));
    }

    #[test]
    fn impossible_lengths_are_refused() {
        for bad in [
            DraftLength::Fixed(0),
            DraftLength::Adaptive { start: 0, most: 2 },
            DraftLength::Adaptive { start: 3, most: 2 },
            DraftLength::Confident {
                least: 1.5,
                most: 2,
            },
            DraftLength::Confident {
                least: 0.5,
                most: 0,
            },
        ] {
            assert!(bad.validate().is_err(), "{bad:?} was accepted");
        }
    }
}
