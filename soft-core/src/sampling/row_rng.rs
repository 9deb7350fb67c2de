//! The random numbers of one row of decoding.
//!
//! A row that owns its generator draws the same numbers whatever the other rows of the batch. Knows
//! nothing of what is drawn with them.
//!
//! Source: Bernstein, *ChaCha*, 2008.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A reproducible stream of uniform numbers: ChaCha8, keyed by a seed.
///
/// Different seeds, neighbours too, give unrelated streams, so `seed + row` serves a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowRng(ChaCha8Rng);

impl RowRng {
    /// The stream that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        // The key is written out, so that no library upgrade can change what a seed means; the tag
        // keeps it apart from the shuffles of a data loader with the same seed.
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[16..24].copy_from_slice(b"sampling");
        Self(ChaCha8Rng::from_seed(key))
    }

    /// The next number, uniform in [0, 1): a multiple of 2^-53.
    pub fn uniform(&mut self) -> f64 {
        const STEP: f64 = 1.0 / (1_u64 << 53) as f64;
        (self.0.next_u64() >> 11) as f64 * STEP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Never change these: answers that people want to repeat depend on them. From an
    /// implementation of its own: `tests/fixtures/uniform.py`.
    #[test]
    fn streams_are_pinned() {
        let first = |seed| {
            let mut rng = RowRng::new(seed);
            [rng.uniform(), rng.uniform(), rng.uniform()]
        };
        assert_eq!(
            first(0),
            [0.3209217972611198, 0.7800294488783511, 0.21343735488930538]
        );
        assert_eq!(
            first(42),
            [0.9849948570984997, 0.8451596988969247, 0.8743585154007381]
        );
    }

    #[test]
    fn numbers_fill_the_unit_interval_evenly() {
        let mut rng = RowRng::new(7);
        let mut counts = [0_u32; 10];
        for _ in 0..100_000 {
            counts[(rng.uniform() * 10.0) as usize] += 1;
        }
        // Mean 10000, standard deviation 95: five of them.
        assert!(counts.iter().all(|count| (9525..=10475).contains(count)));
    }

    #[test]
    fn a_clone_goes_on_alike() {
        let mut rng = RowRng::new(1);
        rng.uniform();
        let mut clone = rng.clone();
        assert_eq!(rng.uniform(), clone.uniform());
        assert_ne!(RowRng::new(1).uniform(), RowRng::new(2).uniform());
    }
}
