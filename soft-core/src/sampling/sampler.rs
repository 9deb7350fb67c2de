//! Sampling of the next token: turns a row of logits into a [`Distribution`].
//!
//! The order is that of `generate` in Hugging Face transformers (`_get_logits_processor`, 5.23):
//! repetition penalty, temperature, top-k, top-p, min-p. Sources: repetition penalty, Keskar et
//! al., *CTRL*, arXiv 1909.05858, section 4.1; top-k, Fan, Lewis, Dauphin, arXiv 1805.04833; top-p,
//! Holtzman et al., arXiv 1904.09751; min-p, Nguyen et al., arXiv 2407.01082.

use std::cmp::Ordering;
use thiserror::Error;

use serde::{Deserialize, Serialize};

use crate::sampling::distribution::Distribution;

/// Invalid settings, or scores that cannot be sampled from.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum SamplingError {
    /// A setting outside its range.
    #[error("sampling: {key} must be {expected}, found {found}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// Accepted values.
        expected: &'static str,
        /// Its value.
        found: f64,
    },
    /// The score of a token is NaN or +inf.
    #[error("token {token} has the score {score}: expected a finite number, or -inf for never")]
    Score {
        /// The token id.
        token: u32,
        /// Its score, after the repetition penalty.
        score: f64,
    },
    /// No token can be sampled.
    #[error("no token can be sampled: expected a score above -inf among {vocab}")]
    NothingPossible {
        /// Number of scores.
        vocab: usize,
    },
}

/// Settings of the choice of the next token. The default is greedy decoding.
///
/// ```
/// use soft_core::Sampling;
///
/// let sampling = Sampling { temperature: 0.7, top_p: Some(0.9), ..Sampling::greedy() };
/// sampling.validate()?;
/// assert!(Sampling::greedy().needs_only_the_best() && !sampling.needs_only_the_best());
/// # Ok::<(), soft_core::sampling::SamplingError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Divisor of the scores: below 1 sharpens, above 1 flattens. 0, the default, is greedy
    /// decoding, which the three filters below do not affect.
    pub temperature: f64,
    /// Keeps the k best tokens, and those that score the same as the k-th. Default: all.
    pub top_k: Option<usize>,
    /// Keeps the fewest best tokens that together reach this probability, at least one; of equal
    /// scores at the boundary, the lowest token ids. Default: all, as with 1.
    pub top_p: Option<f64>,
    /// Keeps tokens at least this many times as likely as the best one. Default: all, as with 0.
    pub min_p: Option<f64>,
    /// Divisor of positive scores, and factor of negative ones, of tokens that occurred before:
    /// above 1 avoids repetition. 0.01 to 100. Default: 1, no penalty.
    pub repetition_penalty: f64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self::greedy()
    }
}

impl Sampling {
    /// Greedy decoding.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: 1.0,
        }
    }

    /// Checks that every setting is in range.
    ///
    /// # Errors
    /// [`SamplingError::Setting`] with the first setting out of range.
    pub fn validate(&self) -> Result<(), SamplingError> {
        let check = |key, within: bool, expected, found| {
            let error = SamplingError::Setting {
                key,
                expected,
                found,
            };
            if within { Ok(()) } else { Err(error) }
        };
        let (temperature, penalty) = (self.temperature, self.repetition_penalty);
        let top_k = self.top_k.unwrap_or(1);
        let top_p = self.top_p.unwrap_or(1.0);
        let min_p = self.min_p.unwrap_or(0.0);
        // Written so that NaN is out of range.
        let within = temperature >= 0.0 && temperature.is_finite();
        check("temperature", within, "finite and at least 0", temperature)?;
        check("top_k", top_k >= 1, "at least 1", top_k as f64)?;
        let within = top_p > 0.0 && top_p <= 1.0;
        check("top_p", within, "above 0 and at most 1", top_p)?;
        let within = (0.0..=1.0).contains(&min_p);
        check("min_p", within, "between 0 and 1", min_p)?;
        // Beyond these a logit may overflow.
        let within = (0.01..=100.0).contains(&penalty);
        check("repetition_penalty", within, "0.01 to 100", penalty)
    }

    /// Whether the token with the highest score, after the penalty, is always chosen.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Whether the best token alone is needed, so that logits can stay on the device.
    pub fn needs_only_the_best(&self) -> bool {
        self.is_greedy() && self.repetition_penalty == 1.0
    }

    /// The distribution of the next token.
    ///
    /// `logits` is one row, `[vocab]`. `seen` is the row's text so far, including the prompt; a
    /// token counts once, and ids outside the vocabulary are ignored. Greedy decoding gives a
    /// [point](Distribution::point), for equal scores the lowest token id. Computed in f64, linear
    /// in the vocabulary except for sorting the tokens that `top_p` keeps.
    ///
    /// # Errors
    /// When a setting is out of range, a score is NaN or +inf, or no score is above -inf.
    pub fn distribution(
        &self,
        logits: &[f32],
        seen: &[u32],
    ) -> Result<Distribution, SamplingError> {
        self.validate()?;
        let scores = self.penalised(logits, seen);
        let (best, highest) = best_token(&scores)?;
        if self.is_greedy() {
            return Ok(Distribution::point(best));
        }
        let mut weights = self.weights(&scores, highest);
        let total: f64 = weights.iter().map(|&(_, weight)| weight).sum();
        // transformers applies min-p after top-p. The same tokens remain, since min-p compares with
        // the best token and top-p uses the earlier total, but fewer are sorted.
        if let Some(min_p) = self.min_p {
            weights.retain(|&(_, weight)| weight >= min_p);
        }
        if let Some(top_p) = self.top_p.filter(|&top_p| top_p < 1.0) {
            keep_heaviest(&mut weights, top_p * total);
        }
        let vocab = logits.len();
        Distribution::in_proportion(weights).ok_or(SamplingError::NothingPossible { vocab })
    }

    fn penalised(&self, logits: &[f32], seen: &[u32]) -> Vec<f64> {
        let mut scores: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();
        if self.repetition_penalty == 1.0 {
            return scores;
        }
        for &token in seen {
            // Computed from the logit, since an earlier occurrence may have changed the score.
            let token = token as usize;
            if let (Some(score), Some(&logit)) = (scores.get_mut(token), logits.get(token)) {
                let logit = f64::from(logit);
                *score = if logit < 0.0 {
                    logit * self.repetition_penalty
                } else {
                    logit / self.repetition_penalty
                };
            }
        }
        scores
    }

    /// The weight exp((score - highest) / temperature) of every token that top-k leaves possible.
    fn weights(&self, scores: &[f64], highest: f64) -> Vec<(u32, f64)> {
        let lowest = self
            .top_k
            .map_or(f64::NEG_INFINITY, |k| kth_highest(scores, k));
        // The difference comes first, so that the best token has weight 1 at any temperature.
        let weight = |score: f64| ((score - highest) / self.temperature).exp();
        (0_u32..)
            .zip(scores)
            .filter(|&(_, &score)| score >= lowest)
            .map(|(token, &score)| (token, weight(score)))
            .filter(|&(_, weight)| weight > 0.0)
            .collect()
    }
}

/// The token with the highest score, the lowest id of equal ones, and its score.
fn best_token(scores: &[f64]) -> Result<(u32, f64), SamplingError> {
    let mut best = (0, f64::NEG_INFINITY);
    for (token, &score) in (0_u32..).zip(scores) {
        if score.is_nan() || score == f64::INFINITY {
            return Err(SamplingError::Score { token, score });
        }
        if score > best.1 {
            best = (token, score);
        }
    }
    if best.1 == f64::NEG_INFINITY {
        let vocab = scores.len();
        return Err(SamplingError::NothingPossible { vocab });
    }
    Ok(best)
}

/// The k-th highest score, `k` counting from 1; -inf when there are fewer.
fn kth_highest(scores: &[f64], k: usize) -> f64 {
    if k >= scores.len() {
        return f64::NEG_INFINITY;
    }
    let mut scores = scores.to_vec();
    *scores
        .select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a))
        .1
}

/// Keeps the fewest heaviest tokens whose weights reach `mass`, at least one.
///
/// Sorts no more than needed: the heaviest few, then increasing numbers of the rest.
fn keep_heaviest(weights: &mut Vec<(u32, f64)>, mass: f64) {
    let mut reached = 0.0;
    let mut kept = 0;
    let mut stretch = 128;
    while kept < weights.len() && reached < mass {
        let mut rest = &mut weights[kept..];
        if stretch < rest.len() {
            rest = rest.select_nth_unstable_by(stretch, heavier_first).0;
        }
        rest.sort_unstable_by(heavier_first);
        for &(_, weight) in rest.iter() {
            if reached >= mass {
                break;
            }
            reached += weight;
            kept += 1;
        }
        stretch *= 4;
    }
    weights.truncate(kept);
    weights.sort_unstable_by_key(|&(token, _)| token);
}

fn heavier_first(a: &(u32, f64), b: &(u32, f64)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plain sampling, from which tests change single settings.
    fn plain() -> Sampling {
        Sampling {
            temperature: 1.0,
            ..Sampling::greedy()
        }
    }

    #[test]
    fn settings_outside_their_range_are_named() {
        let message = |change: fn(&mut Sampling)| {
            let mut sampling = plain();
            change(&mut sampling);
            let error = sampling.validate().unwrap_err();
            assert!(sampling.distribution(&[1.0], &[]).is_err());
            error.to_string()
        };
        let said = "sampling: temperature must be finite and at least 0, found ";
        assert_eq!(message(|s| s.temperature = -1.0), format!("{said}-1"));
        assert_eq!(message(|s| s.temperature = f64::NAN), format!("{said}NaN"));
        assert_eq!(
            message(|s| s.temperature = f64::INFINITY),
            format!("{said}inf")
        );
        assert!(message(|s| s.top_k = Some(0)).contains("top_k must be at least 1, found 0"));
        let said = "top_p must be above 0 and at most 1, found ";
        assert!(message(|s| s.top_p = Some(0.0)).ends_with(&format!("{said}0")));
        assert!(message(|s| s.top_p = Some(1.5)).ends_with(&format!("{said}1.5")));
        assert!(message(|s| s.min_p = Some(-0.1)).contains("min_p must be between 0 and 1"));
        assert!(message(|s| s.min_p = Some(f64::NAN)).contains("found NaN"));
        let said = "repetition_penalty must be 0.01 to 100, found 0";
        assert!(message(|s| s.repetition_penalty = 0.0).contains(said));
    }

    #[test]
    fn scores_that_allow_no_choice_are_refused() {
        for sampling in [Sampling::greedy(), plain()] {
            let made = |logits: &[f32]| sampling.distribution(logits, &[]);
            let never = f32::NEG_INFINITY;
            let nothing = |vocab| Err(SamplingError::NothingPossible { vocab });
            assert_eq!(made(&[]), nothing(0));
            assert_eq!(made(&[never; 3]), nothing(3));
            assert_eq!(made(&[never, -1.0]), Ok(Distribution::point(1)));
            let message = made(&[0.0, f32::NAN]).unwrap_err().to_string();
            assert!(message.contains("token 1 has the score NaN"), "{message}");
            let message = made(&[f32::INFINITY]).unwrap_err().to_string();
            assert!(message.contains("token 0 has the score inf"), "{message}");
        }
    }

    #[test]
    fn files_name_only_what_they_change() {
        let read: Sampling = serde_json::from_str(r#"{"temperature": 0.8, "top_k": 40}"#).unwrap();
        let expected = Sampling {
            temperature: 0.8,
            top_k: Some(40),
            ..Sampling::greedy()
        };
        assert_eq!(read, expected);
        assert!(serde_json::from_str::<Sampling>(r#"{"topk": 40}"#).is_err());
    }
}
