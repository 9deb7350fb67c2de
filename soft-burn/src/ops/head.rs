//! Final norm and head on packed states: best tokens, scores or logits.

use burn::tensor::{Tensor, activation};
use soft_core::model::Score;

use crate::dtype::to_f32;
use crate::error::Error;
#[cfg(feature = "cube")]
use crate::ops::cube;
#[cfg(feature = "flex")]
use crate::ops::flex::with_head;
use crate::ops::linear::project;
use crate::ops::rms_norm::rms_norm;
use crate::ops::transfers::read;

pub(crate) struct HeadTensors {
    /// `[d_model]`.
    pub norm: Tensor<1>,
    pub norm_eps: f64,
    /// `[tokens, d_model]`.
    pub weight: Tensor<2>,
}

impl HeadTensors {
    /// Logits of states `[n, d_model]`: `[n, tokens]` in f32, to keep an index beside them exact.
    fn logits(&self, states: Tensor<2>) -> Tensor<2> {
        #[cfg(feature = "cube")]
        if let Some(logits) = cube::logits(&states, (&self.norm, self.norm_eps), &self.weight) {
            return logits;
        }
        let normed = rms_norm(states, self.norm.clone(), self.norm_eps);
        to_f32(project(normed, self.weight.clone()))
    }

    /// The logits of every state.
    ///
    /// # Errors
    /// [`Error::ScoresNotFinite`] when a highest logit is not finite or a logit is NaN.
    pub fn logit_rows(&self, states: Tensor<2>) -> Result<Vec<Vec<f32>>, Error> {
        let tokens = self.weight.dims()[0];
        #[cfg(feature = "flex")]
        let on_host = with_head(self, &states, |head, states| head.logits(states))?;
        #[cfg(not(feature = "flex"))]
        let on_host = None;
        let logits: Vec<f32> = match on_host {
            Some(logits) => logits,
            None => read(self.logits(states)).map_err(unreadable)?,
        };
        let rows: Vec<Vec<f32>> = logits.chunks(tokens).map(<[f32]>::to_vec).collect();
        if rows.iter().all(|row| has_best(row)) {
            Ok(rows)
        } else {
            Err(Error::ScoresNotFinite)
        }
    }

    /// Index of the highest logit of every state, the lowest index of equal ones.
    ///
    /// # Errors
    /// See [`logit_rows`](Self::logit_rows).
    pub fn best(&self, states: Tensor<2>) -> Result<Vec<u32>, Error> {
        #[cfg(feature = "flex")]
        if let Some(best) = with_head(self, &states, |head, states| head.best(states))? {
            return best.ok_or(Error::ScoresNotFinite);
        }
        let logits = self.logits(states);
        #[cfg(feature = "cube")]
        if let Some(scores) = read_scores(&logits)? {
            return Ok(scores.iter().map(|score| score.token).collect());
        }
        let highest = logits.clone().max_dim(1);
        // Indices as floats, exact up to 2^24, so that one read returns both.
        let both = Tensor::cat(vec![logits.argmax(1).float(), highest], 1);
        let both = read(both).map_err(unreadable)?;
        check_finite(&both)?;
        Ok(both.chunks(2).map(|pair| pair[0] as u32).collect())
    }

    /// The score of every state; `token` is an index as in [`best`](Self::best).
    ///
    /// # Errors
    /// See [`logit_rows`](Self::logit_rows).
    pub fn scores(&self, states: Tensor<2>) -> Result<Vec<Score>, Error> {
        #[cfg(feature = "flex")]
        if let Some(scores) = with_head(self, &states, |head, states| head.scores(states))? {
            return scores.ok_or(Error::ScoresNotFinite);
        }
        let logits = self.logits(states);
        #[cfg(feature = "cube")]
        if let Some(scores) = read_scores(&logits)? {
            return Ok(scores);
        }
        let logs = activation::log_softmax(logits, 1);
        let tokens = logs.dims()[1];
        // `argmax` returns the first of several equal tokens, sorting any of them.
        let best = logs.clone().argmax(1).float();
        let highest = logs.clone().topk(tokens.min(2), 1);
        let entropy = (logs.clone().exp() * logs).sum_dim(1).neg();
        let numbers = Tensor::cat(vec![best, entropy, highest], 1);
        let width = numbers.dims()[1];
        let numbers = read(numbers).map_err(unreadable)?;
        check_finite(&numbers)?;
        let score = |numbers: &[f32]| Score {
            token: numbers[0] as u32,
            probability: numbers[2].exp(),
            second: numbers.get(3).map_or(0.0, |log| log.exp()),
            entropy: numbers[1],
        };
        Ok(numbers.chunks(width).map(score).collect())
    }
}

/// The scores of every row of logits, where there is a kernel.
#[cfg(feature = "cube")]
fn read_scores(logits: &Tensor<2>) -> Result<Option<Vec<Score>>, Error> {
    let Some(scores) = cube::scores(logits) else {
        return Ok(None);
    };
    let numbers = read(scores).map_err(unreadable)?;
    check_finite(&numbers)?;
    let score = |numbers: &[f32]| {
        let [index, highest, second, log_sum, entropy] = *numbers else {
            return Err(Error::ScoresNotFinite);
        };
        Ok(Score {
            token: index as u32,
            probability: (highest - log_sum).exp(),
            second: (second - log_sum).exp(),
            entropy,
        })
    };
    let scores = numbers.chunks(cube::SCORES).map(score);
    scores.collect::<Result<Vec<_>, _>>().map(Some)
}

/// Whether no value is NaN and the highest is finite. Without early exit, so that it is vectorized.
pub(super) fn has_best(row: &[f32]) -> bool {
    let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    highest.is_finite() && !row.iter().fold(false, |nan, value| nan | value.is_nan())
}

/// Returns an error for values that are not finite, which damaged weights cause.
fn check_finite(numbers: &[f32]) -> Result<(), Error> {
    if numbers.iter().all(|number| number.is_finite()) {
        Ok(())
    } else {
        Err(Error::ScoresNotFinite)
    }
}

pub(crate) fn unreadable(source: impl std::fmt::Display) -> Error {
    Error::Read {
        name: "scores".to_owned(),
        reason: source.to_string(),
    }
}
