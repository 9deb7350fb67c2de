//! Final norm and head over packed states: best tokens, scores, or all logits.

use burn::tensor::Tensor;
use pulp::Arch;
use rayon::prelude::*;
use soft_core::model::Score;

use super::exp::exp;
use super::host::{host, is_flex_f32};
use super::linear::{Product, Rows, linear};
use super::norm::rms_norm;
use crate::error::Error;
use crate::ops::head::{HeadTensors, has_best};

/// The weights of norm and head, row-major, and the norm's epsilon.
pub(crate) struct HeadWeights<'a> {
    pub norm: &'a [f32],
    pub eps: f32,
    /// `[tokens, d_model]`.
    pub weight: &'a [f32],
}

impl HeadWeights<'_> {
    fn tokens(&self) -> usize {
        self.weight.len() / self.norm.len()
    }

    /// Logits of every state, `[n, tokens]`.
    pub fn logits(&self, states: &[f32]) -> Vec<f32> {
        let arch = Arch::new();
        let width = self.norm.len();
        let rows = |values| Rows { values, width };
        let mut normed = vec![0.0; states.len()];
        rms_norm(arch, rows(states), self.norm, self.eps, &mut normed);
        let mut out = vec![0.0; states.len() / width * self.tokens()];
        linear(
            arch,
            rows(&normed),
            &mut [Product {
                weight: self.weight,
                out: &mut out,
            }],
        );
        out
    }

    /// Index of the highest logit of every state, the lowest index of equal ones; `None` when a
    /// highest logit is not finite or a logit is NaN.
    pub fn best(&self, states: &[f32]) -> Option<Vec<u32>> {
        let logits = self.logits(states);
        let rows = logits.par_chunks(self.tokens());
        rows.map(|row| has_best(row).then(|| top_two(row).0 as u32))
            .collect()
    }

    /// Scores, with indices into the head as `token`; `None` as for [`best`](Self::best).
    pub fn scores(&self, states: &[f32]) -> Option<Vec<Score>> {
        let logits = self.logits(states);
        let rows = logits.par_chunks(self.tokens());
        rows.map(|row| has_best(row).then(|| score(row))).collect()
    }
}

/// Applies `read` to the slices of a head and of states `[n, d_model]`; `None` unless f32 on flex.
pub(crate) fn with_head<T: Send>(
    head: &HeadTensors,
    states: &Tensor<2>,
    read: impl FnOnce(&HeadWeights, &[f32]) -> T + Send,
) -> Result<Option<T>, Error> {
    if !is_flex_f32(&head.norm) {
        return Ok(None);
    }
    let states = host(states.clone())?;
    let norm = host(head.norm.clone())?;
    let weight = host(head.weight.clone())?;
    let weights = HeadWeights {
        norm: norm.values(),
        eps: head.norm_eps as f32,
        weight: weight.values(),
    };
    let states = states.values();
    // A single switch to the thread pool.
    Ok(Some(rayon::scope(|_| read(&weights, states))))
}

/// Index of the highest value, the lowest index of equal ones; that value; the second highest.
fn top_two(row: &[f32]) -> (usize, f32, f32) {
    let (mut best, mut second) = ((0, f32::NEG_INFINITY), f32::NEG_INFINITY);
    // Runs whose maximum cannot change the result are skipped; the maximum is vectorized.
    for (run, values) in row.chunks(RUN).enumerate() {
        let highest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if highest <= second {
            continue;
        }
        for (index, &value) in values.iter().enumerate() {
            if value > best.1 {
                second = best.1;
                best = (run * RUN + index, value);
            } else if value > second {
                second = value;
            }
        }
    }
    (best.0, best.1, second)
}

const RUN: usize = 64;

fn score(row: &[f32]) -> Score {
    let (token, highest, second) = top_two(row);
    let (mut sum, mut weighted) = (0.0f64, 0.0f64);
    // Single precision within a run, double precision between runs.
    for values in row.chunks(RUN) {
        let (mut run_sum, mut run_weighted) = (0.0f32, 0.0f32);
        for value in values {
            let below = (value - highest).max(-80.0);
            let weight = exp(below);
            run_sum += weight;
            run_weighted += below * weight;
        }
        sum += f64::from(run_sum);
        weighted += f64::from(run_weighted);
    }
    Score {
        token: token as u32,
        probability: (1.0 / sum) as f32,
        second: (f64::from(second - highest).exp() / sum) as f32,
        entropy: (sum.ln() - weighted / sum) as f32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn scores_are_those_of_the_logits(logits in proptest::collection::vec(-20f32..20.0, 1..200)) {
            let (found, expected) = (score(&logits), Score::of_logits(&logits));
            prop_assert_eq!(found.token, expected.token);
            for (a, b) in [
                (found.probability, expected.probability),
                (found.second, expected.second),
                (found.entropy, expected.entropy),
            ] {
                prop_assert!((a - b).abs() < 1e-5, "{} {}", a, b);
            }
        }
    }

    #[test]
    fn numbers_that_are_none_are_no_scores() {
        assert!(has_best(&[1.0, f32::NEG_INFINITY]));
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(!has_best(&[1.0, bad]));
        }
        assert!(!has_best(&[f32::NEG_INFINITY; 2]));
    }

    #[test]
    fn the_lowest_of_equal_tokens_is_best() {
        let mut row = vec![0.0; 300];
        row[70] = 2.0;
        row[200] = 2.0;
        assert_eq!(top_two(&row), (70, 2.0, 2.0));
    }
}
