//! Operations of a nested model for decoding, in addition to its blocks.
//!
//! States are packed, `[1, n, d_model]`: rows of different lengths are concatenated without
//! padding. Scores are computed on the device and read back once per call; whole rows of logits are
//! read back only when a sampler needs them.

use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::model::cache::KvCache;
use crate::model::nested::{NestedModel, Past};

/// A nested model that can be decoded.
///
/// Eight methods are required. Override [`best_tokens`](Self::best_tokens) and
/// [`scores`](Self::scores) when the backend can compute them without reading all logits back.
pub trait DecodeModel: NestedModel {
    /// A head restricted to some tokens.
    type DraftHead;

    /// Rows with equal numbers of tokens, on the model's device.
    ///
    /// # Errors
    /// When a token is outside the vocabulary.
    fn tokens(&self, rows: &[Vec<u32>]) -> Result<Self::Tokens, Self::Error>;

    /// Number of tokens in the vocabulary.
    fn vocab(&self) -> usize;

    /// Maximum number of positions of a row.
    fn context(&self) -> usize;

    /// Empty storage for the keys and values of `rows` rows of at most `capacity` positions, in
    /// shared blocks and blocks of exits.
    ///
    /// # Errors
    /// When the model does not support that many positions.
    fn empty_store(&self, rows: usize, capacity: usize) -> Result<Self::KvStore, Self::Error>;

    /// An empty cache for `rows` rows of at most `capacity` positions.
    ///
    /// # Errors
    /// See [`empty_store`](Self::empty_store).
    fn empty_cache(
        &self,
        rows: usize,
        capacity: usize,
    ) -> Result<KvCache<Self::KvStore>, Self::Error> {
        let store = self.empty_store(rows, capacity)?;
        let blocks = self.depth() + self.exit_blocks();
        Ok(KvCache::new(store, blocks, rows, capacity))
    }

    /// Appends the keys and values of packed states to `block`, whose output is not needed. The
    /// default runs the block; override it to compute keys and values only.
    ///
    /// # Errors
    /// See [`NestedModel::blocks`].
    fn append_states(
        &self,
        hidden: Self::Hidden,
        block: usize,
        past: Past<Self::KvStore>,
    ) -> Result<(), Self::Error> {
        self.blocks(hidden, block..block + 1, Some(past)).map(drop)
    }

    /// The packed states at these indices of the concatenated `parts`, in this order. Requires at
    /// least one part and one index.
    ///
    /// # Errors
    /// Backend-specific.
    fn gather(
        &self,
        parts: &[&Self::Hidden],
        states: &[usize],
    ) -> Result<Self::Hidden, Self::Error>;

    /// The packed states at these indices, in this order. Requires at least one index.
    ///
    /// # Errors
    /// See [`gather`](Self::gather).
    fn select(&self, hidden: &Self::Hidden, states: &[usize]) -> Result<Self::Hidden, Self::Error> {
        self.gather(&[hidden], states)
    }

    /// The head of `exit` restricted to `tokens`, of which there is at least one and no duplicate.
    ///
    /// # Errors
    /// When a token is outside the vocabulary.
    fn draft_head(&self, exit: Exit, tokens: &[u32]) -> Result<Self::DraftHead, Self::Error>;

    /// The heads of several exits for the same tokens. Exits that share a head may share a result.
    ///
    /// # Errors
    /// See [`draft_head`](Self::draft_head).
    fn draft_heads(
        &self,
        exits: &[Exit],
        tokens: &[u32],
    ) -> Result<Vec<Self::DraftHead>, Self::Error> {
        let heads = exits.iter().map(|&exit| self.draft_head(exit, tokens));
        heads.collect()
    }

    /// The logits of every packed state, one for each token of the head: [`vocab`](Self::vocab) for
    /// a full head, the number of its tokens for a draft head.
    ///
    /// # Errors
    /// As for [`NestedModel::logits`]; when a highest logit is infinite or a logit is NaN, which
    /// damaged weights cause.
    fn logit_rows(
        &self,
        hidden: &Self::Hidden,
        head: Head<Self::DraftHead>,
    ) -> Result<Vec<Vec<f32>>, Self::Error>;

    /// The index of the highest logit of every packed state, the lowest index of equal ones. For a
    /// full head the index is the token.
    ///
    /// # Errors
    /// See [`logit_rows`](Self::logit_rows).
    fn best_tokens(
        &self,
        hidden: &Self::Hidden,
        head: Head<Self::DraftHead>,
    ) -> Result<Vec<u32>, Self::Error> {
        let scores = self.scores(hidden, head)?;
        Ok(scores.iter().map(|score| score.token).collect())
    }

    /// The confidence of the head in every packed state; [`Score::token`] is an index as in
    /// [`best_tokens`](Self::best_tokens).
    ///
    /// # Errors
    /// See [`logit_rows`](Self::logit_rows).
    fn scores(
        &self,
        hidden: &Self::Hidden,
        head: Head<Self::DraftHead>,
    ) -> Result<Vec<Score>, Self::Error> {
        let rows = self.logit_rows(hidden, head)?;
        Ok(rows.iter().map(|row| Score::of_logits(row)).collect())
    }

    /// The values of every packed state, `d_model` each, for exit policies that look at states.
    ///
    /// # Errors
    /// Backend-specific.
    fn read_states(&self, hidden: &Self::Hidden) -> Result<Vec<Vec<f32>>, Self::Error>;
}

/// The head applied to a state.
#[derive(Debug)]
pub enum Head<'a, DraftHead> {
    /// The head of this exit, for all tokens.
    Full(Exit),
    /// A head restricted to some tokens.
    Draft(&'a DraftHead),
}

impl<D> Clone for Head<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D> Copy for Head<'_, D> {}

/// The confidence of a head in its best token, after a softmax over the head's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The token with the highest score, the lowest id of equal ones.
    pub token: u32,
    /// Its probability.
    pub probability: f32,
    /// The probability of the second best token; 0 when there is none.
    pub second: f32,
    /// Entropy of the distribution, in nats.
    pub entropy: f32,
}

impl Score {
    /// The score of logits, at least one finite and none NaN; -∞ marks an impossible token.
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

    /// The difference between the probabilities of the best and the second best token.
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
