//! Layer dropout: in training, rows skip blocks, deeper ones more often.
//!
//! Block l of L is skipped with probability p · (2^(l / (L − 1)) − 1): 0 for the first, p for the
//! last. Whether a row skips a block depends only on seed, step, micro-batch, block and row, so
//! that a resumed run continues unchanged. Kept blocks are not scaled up.
//!
//! Source: Elhoushi et al., *LayerSkip* (arXiv 2404.16710), section 4.1, with the same rate at
//! every step, as there for fine-tuning. Differs from the Sorted LLaMA paper, which has no layer
//! dropout.

use serde::{Deserialize, Serialize};
use soft_core::MicroBatch;
use soft_core::random::Random;

/// How often rows skip blocks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerDropout {
    /// Probability that a row skips the last block, above 0 and below 1.
    pub rate: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl LayerDropout {
    /// Probability that a row skips `layer` of `depth`.
    pub fn rate_of(&self, layer: usize, depth: usize) -> f64 {
        let last = depth.saturating_sub(1).max(1);
        self.rate * ((layer as f64 / last as f64).exp2() - 1.0)
    }

    pub(crate) fn drops(&self, at: MicroBatch, (layer, depth): (usize, usize), row: usize) -> bool {
        const DROP: u32 = u32::from_le_bytes(*b"drop");
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let place = pair(at.index as u32, layer as u32);
        let mut random = Random::keyed([self.seed, at.step, place, pair(row as u32, DROP)]);
        random.uniform() < self.rate_of(layer, depth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DROPOUT: LayerDropout = LayerDropout { rate: 0.4, seed: 5 };

    #[test]
    fn rates_grow_from_nothing_to_the_full_rate() {
        let rates: Vec<_> = (0..5).map(|layer| DROPOUT.rate_of(layer, 5)).collect();
        let wanted = [0.0, 0.0757, 0.1657, 0.2727, 0.4];
        for (rate, wanted) in rates.iter().zip(wanted) {
            assert!((rate - wanted).abs() < 1e-4, "{rates:?}");
        }
        assert_eq!(DROPOUT.rate_of(0, 1), 0.0);
    }

    #[test]
    fn rows_skip_as_often_as_told_and_alike_whenever_asked() {
        let drops = |step, layer, row| {
            DROPOUT.drops(
                MicroBatch {
                    step,
                    index: row % 3,
                },
                (layer, 5),
                row as usize,
            )
        };
        for layer in 0..5 {
            let draws = (0..4000).map(|step| drops(step, layer, step % 7));
            let share = draws.filter(|&dropped| dropped).count() as f64 / 4000.0;
            let rate = DROPOUT.rate_of(layer, 5);
            // Within four standard deviations.
            assert!((share - rate).abs() < 0.031, "{layer}: {share} for {rate}");
        }
        assert!((0..99).all(|step| drops(step, 4, 1) == drops(step, 4, 1)));
        assert!((0..99).any(|step| drops(step, 4, 1) != drops(step, 4, 2)));
        assert!((0..99).any(|step| drops(step, 4, 1) != drops(step, 3, 1)));
    }
}
