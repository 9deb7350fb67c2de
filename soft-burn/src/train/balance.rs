//! Limits on how intermediate exits change the weights they share with the full depth.
//!
//! Untrained exits start with losses several times the full model's. Their gradients into the
//! shared blocks, norm and head are larger by as much, which costs accuracy at full depth (the
//! full-depth tax). The remedies here are off by default, since the paper's loss has none.
//!
//! Differs from the paper: everything in this file.

use burn::tensor::{Tensor, TensorReadError};
use serde::{Deserialize, Serialize};
use soft_core::Exit;

use crate::model::parameters::flat_gradient;
use crate::ops::adamw::squares;
use crate::ops::transfers::read_all;
use crate::train::combination::Combination;

/// Limits on how intermediate exits change the weights they share with the full depth. Requires the
/// memory-flat objective.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balance {
    /// Largest norm of the gradient of an intermediate exit with respect to its hidden states, as a
    /// multiple of the full depth's in the same micro-batch, each per unit of its weight in the
    /// loss. Larger gradients are scaled down, including that of the final norm but not that of the
    /// head; with accumulation every micro-batch has its own factors. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
    /// How the gradient of the intermediate exits is combined with the full depth's.
    #[serde(default, skip_serializing_if = "is_sum")]
    pub combination: Combination,
}

fn is_sum(combination: &Combination) -> bool {
    *combination == Combination::Sum
}

/// The gradient of an exit with respect to its hidden states.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExitGradient {
    pub exit: Exit,
    pub norm: f64,
    /// The exit's weight in the loss.
    pub weight: f64,
}

/// Factors of the exits' gradients such that no norm exceeds `limit` times the full depth's, each
/// per unit of its weight. Without the full depth in `sent` there is no limit.
pub(crate) fn factors(sent: &[ExitGradient], full: Exit, limit: f64) -> Vec<f64> {
    let of_full = sent.iter().find(|sent| sent.exit == full);
    let per_weight = of_full.map_or(f64::INFINITY, |full| limit * full.norm / full.weight);
    let factor = |sent: &ExitGradient| {
        let most = per_weight * sent.weight;
        if sent.exit == full || sent.norm <= most {
            1.0
        } else {
            most / sent.norm
        }
    };
    sent.iter().map(factor).collect()
}

/// The L2 norms of gradients, in one read.
pub(crate) fn norms_of(gradients: Vec<Tensor<2>>) -> Result<Vec<f64>, TensorReadError> {
    let flat: Vec<_> = gradients.into_iter().map(flat_gradient).collect();
    let squares = read_all(vec![squares(&flat.iter().collect::<Vec<_>>())])?.concat();
    Ok(squares.into_iter().map(f64::sqrt).collect())
}

#[cfg(test)]
mod tests {
    use soft_core::Exits;

    use super::*;

    fn exit(depth: usize) -> Exit {
        Exits::new([depth]).map_or_else(|_| unreachable!(), |exits| exits.last())
    }

    fn sent(depth: usize, norm: f64, weight: f64) -> ExitGradient {
        let exit = exit(depth);
        ExitGradient { exit, norm, weight }
    }

    #[test]
    fn only_what_is_too_large_is_scaled_down() {
        let norms = [(2, 8.0), (4, 0.5), (6, 2.0)];
        let norms = norms.map(|(depth, norm)| sent(depth, norm, 0.2));
        assert_eq!(factors(&norms, exit(6), 0.5), [0.125, 1.0, 1.0]);
        assert_eq!(factors(&norms, exit(6), 4.0), [1.0; 3]);
        assert_eq!(factors(&norms[..2], exit(6), 0.5), [1.0; 2]);
        let nothing = [sent(2, 0.0, 0.5), sent(6, 0.0, 0.5)];
        assert_eq!(factors(&nothing, exit(6), 1.0), [1.0; 2]);
    }

    #[test]
    fn an_exit_that_counts_more_may_send_more() {
        let norms = [sent(2, 8.0, 0.4), sent(4, 8.0, 0.1), sent(6, 2.0, 0.2)];
        assert_eq!(factors(&norms, exit(6), 1.0), [0.5, 0.125, 1.0]);
    }
}
