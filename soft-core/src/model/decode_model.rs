//! What decoding asks of a nested model, beyond its blocks.
//!
//! States come packed, `[1, n, d_model]`: rows of different lengths stand one after the other
//! and nothing is padded. Scores are computed where the tensors live and come to the host in one
//! reading; whole rows of logits come only when a sampler needs them.

use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::model::nested::NestedModel;

/// What decoding adds to a nested model.
pub trait DecodeModel: NestedModel {
    /// The head cut down to some tokens, for drafts.
    type DraftHead;

    /// Rows of equally many tokens, on the model's device.
    ///
    /// # Errors
    /// When a token is outside the vocabulary.
    fn tokens(&self, rows: &[Vec<u32>]) -> Result<Self::Tokens, Self::Error>;

    /// Number of tokens.
    fn vocab(&self) -> usize;

    /// Most positions of a row.
    fn context(&self) -> usize;

    /// An empty cache for `rows` rows of at most `capacity` positions.
    ///
    /// # Errors
    /// When the model was not made for that many positions.
    fn empty_cache(&self, rows: usize, capacity: usize) -> Result<Self::Cache, Self::Error>;

    /// The packed states at these indices, in this order; at least one.
    ///
    /// # Errors
    /// Backend-specific.
    fn select(&self, hidden: &Self::Hidden, states: &[usize]) -> Result<Self::Hidden, Self::Error>;

    /// Packed states one after the other; at least one part.
    ///
    /// # Errors
    /// Backend-specific.
    fn concat(&self, parts: Vec<Self::Hidden>) -> Result<Self::Hidden, Self::Error>;

    /// The head of `exit` cut down to `tokens`, which are distinct and at least one.
    ///
    /// # Errors
    /// When a token is outside the vocabulary.
    fn draft_head(&self, exit: Exit, tokens: &[u32]) -> Result<Self::DraftHead, Self::Error>;

    /// The heads of several exits cut down to the same tokens; exits that share a head may share
    /// what this makes.
    ///
    /// # Errors
    /// As [`draft_head`](Self::draft_head).
    fn draft_heads(
        &self,
        exits: &[Exit],
        tokens: &[u32],
    ) -> Result<Vec<Self::DraftHead>, Self::Error> {
        let heads = exits.iter().map(|&exit| self.draft_head(exit, tokens));
        heads.collect()
    }

    /// For every packed state the token with the highest score, the lowest id of several.
    ///
    /// # Errors
    /// As [`NestedModel::logits`]; when the highest score is no finite number, which weights that
    /// are damaged give.
    fn best_tokens(
        &self,
        hidden: &Self::Hidden,
        head: Head<Self::DraftHead>,
    ) -> Result<Vec<u32>, Self::Error>;

    /// For every packed state how sure it is of its next token.
    ///
    /// # Errors
    /// As [`best_tokens`](Self::best_tokens).
    fn scores(
        &self,
        hidden: &Self::Hidden,
        head: Head<Self::DraftHead>,
    ) -> Result<Vec<Score>, Self::Error>;

    /// For every packed state its logits, [`vocab`](Self::vocab) of them; -∞ for tokens that the
    /// head does not have.
    ///
    /// # Errors
    /// As [`NestedModel::logits`].
    fn logit_rows(
        &self,
        hidden: &Self::Hidden,
        head: Head<Self::DraftHead>,
    ) -> Result<Vec<Vec<f32>>, Self::Error>;

    /// For every packed state the cosine between itself in `before` and in `after`.
    ///
    /// # Errors
    /// Backend-specific.
    fn cosine_similarities(
        &self,
        before: &Self::Hidden,
        after: &Self::Hidden,
    ) -> Result<Vec<f32>, Self::Error>;
}

/// The head that reads a state.
#[derive(Debug)]
pub enum Head<'a, DraftHead> {
    /// The head of this exit, all tokens.
    Full(Exit),
    /// A head cut down to some tokens.
    Draft(&'a DraftHead),
}

impl<D> Clone for Head<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D> Copy for Head<'_, D> {}

/// How sure a state is of its next token, after a softmax over the head's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The token with the highest score; the lowest id of several.
    pub token: u32,
    /// Its probability.
    pub probability: f32,
    /// The probability of the second best token; 0 when there is none.
    pub second: f32,
    /// Entropy of the distribution, in nats.
    pub entropy: f32,
}

impl Score {
    /// The score of one row of logits, at least one of them finite and none NaN; -∞ stands for a token that cannot come.
    pub fn of_logits(logits: &[f32]) -> Self {
        let (mut token, mut highest, mut second) = (0, f32::NEG_INFINITY, f32::NEG_INFINITY);
        for (index, &logit) in logits.iter().enumerate() {
            if logit > highest {
                (token, second, highest) = (index, highest, logit);
            } else if logit > second {
                second = logit;
            }
        }
        let (mut sum, mut weighted) = (0.0f64, 0.0f64);
        for &logit in logits.iter().filter(|logit| **logit > f32::NEG_INFINITY) {
            let below = f64::from(logit - highest);
            sum += below.exp();
            weighted += below * below.exp();
        }
        Self {
            token: token as u32,
            probability: (1.0 / sum) as f32,
            second: (f64::from(second - highest).exp() / sum) as f32,
            entropy: (sum.ln() - weighted / sum) as f32,
        }
    }

    /// By how much the best token's probability exceeds the second's.
    pub fn margin(&self) -> f32 {
        self.probability - self.second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_those_of_the_softmax() {
        // Probabilities 1/7, 2/7, 4/7.
        let logits = [0.0, 2f32.ln(), 4f32.ln(), f32::NEG_INFINITY];
        let score = Score::of_logits(&logits);
        assert_eq!(score.token, 2);
        let entropy: f64 = [1.0f64, 2.0, 4.0]
            .iter()
            .map(|w| -(w / 7.0) * (w / 7.0).ln())
            .sum();
        assert!((score.probability - 4.0 / 7.0).abs() < 1e-6);
        assert!((score.margin() - 2.0 / 7.0).abs() < 1e-6);
        assert!((f64::from(score.entropy) - entropy).abs() < 1e-6);
    }

    #[test]
    fn the_lowest_of_equal_tokens_is_best() {
        let score = Score::of_logits(&[1.0, 3.0, 3.0]);
        assert_eq!((score.token, score.margin()), (1, 0.0));
        let alone = Score::of_logits(&[5.0]);
        assert_eq!(
            (alone.probability, alone.second, alone.entropy),
            (1.0, 0.0, 0.0)
        );
    }
}
