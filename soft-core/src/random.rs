//! Reproducible random numbers: the stream of a seed does not change with a library upgrade.
//!
//! [`Random`] (ChaCha8) is for all draws in training and decoding. [`SplitMix64`] is smaller, can
//! skip ahead, and generates weights and data.
//!
//! Sources: Bernstein, *ChaCha*, 2008; Steele, Lea and Flood, *Fast splittable pseudorandom number
//! generators*, 2014; Durstenfeld, *Algorithm 235*, 1964 (the shuffle).

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A stream of random numbers: ChaCha8 with a key of four words.
///
/// Different keys give independent streams, so a batch can use `seed + row`. A row with its own
/// generator draws the same numbers regardless of the other rows of the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Random(ChaCha8Rng);

impl Random {
    /// The stream of `seed`, as used by samplers.
    pub fn new(seed: u64) -> Self {
        Self::keyed([seed, 0, tag(b"sampling"), 0])
    }

    /// The stream of a key, by convention `[seed, step or epoch, purpose, item]`. The purpose, a
    /// [`tag`], separates the streams of one seed.
    pub fn keyed(words: [u64; 4]) -> Self {
        let mut key = [0; 32];
        for (bytes, word) in key.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// The next number, uniform in [0, 1): a multiple of 2^-53.
    pub fn uniform(&mut self) -> f64 {
        const STEP: f64 = 1.0 / (1_u64 << 53) as f64;
        (self.0.next_u64() >> 11) as f64 * STEP
    }

    /// A uniform number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: usize) -> usize {
        // Draws from the incomplete last run of the remainders are rejected.
        let bound = bound as u64;
        let complete = u64::MAX - u64::MAX % bound;
        loop {
            let draw = self.0.next_u64();
            if draw < complete {
                return (draw % bound) as usize;
            }
        }
    }
}

/// The purpose of a stream as a word of its key.
pub const fn tag(purpose: &[u8; 8]) -> u64 {
    u64::from_le_bytes(*purpose)
}

/// Shuffles `items` (Fisher-Yates); `below` draws a number below its argument.
pub fn shuffle<T>(items: &mut [T], mut below: impl FnMut(usize) -> usize) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(last + 1));
    }
}

/// A SplitMix64 stream, whose state is the seed. Not for statistics.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The stream after the next `numbers` numbers.
    #[must_use]
    pub fn skip(&self, numbers: usize) -> Self {
        Self(self.0.wrapping_add(Self::STEP.wrapping_mul(numbers as u64)))
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(Self::STEP);
        Self::mix(self.0)
    }

    /// The finalizer: a bijection in which every bit affects all others.
    pub fn mix(mut z: u64) -> u64 {
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These must not change, since reproducing earlier answers depends on them. Source: an
    /// independent implementation, `tests/fixtures/uniform.py`.
    #[test]
    fn streams_are_pinned() {
        let first = |seed| {
            let mut random = Random::new(seed);
            [random.uniform(), random.uniform(), random.uniform()]
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

    /// The ChaCha8 key stream of the all-zero key, from the published test vectors.
    #[test]
    fn the_generator_is_chacha8() {
        let mut random = Random::keyed([0; 4]);
        assert_eq!(
            random.0.next_u64().to_le_bytes(),
            [0x3e, 0x00, 0xef, 0x2f, 0x89, 0x5f, 0x40, 0xd6]
        );
    }

    #[test]
    fn split_mix_follows_the_published_sequence() {
        let mut random = SplitMix64::new(1_234_567);
        let mut second = random.skip(1);
        assert_eq!(random.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(random.next_u64(), 3_203_168_211_198_807_973);
        assert_eq!(second.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn numbers_fill_the_unit_interval_evenly() {
        let mut random = Random::new(7);
        let mut counts = [0_u32; 10];
        for _ in 0..100_000 {
            counts[(random.uniform() * 10.0) as usize] += 1;
        }
        // Mean 10000, standard deviation 95; the bounds are five of them away.
        assert!(counts.iter().all(|count| (9525..=10475).contains(count)));
    }

    #[test]
    fn every_place_of_a_shuffle_is_equally_likely() {
        let mut counts = [[0_u32; 4]; 4];
        for seed in 0..4000 {
            let (mut random, mut order) = (Random::new(seed), [0, 1, 2, 3]);
            shuffle(&mut order, |bound| random.below(bound));
            for (place, item) in order.into_iter().enumerate() {
                counts[item][place] += 1;
            }
        }
        // Mean 1000, standard deviation 27; the bounds are six of them away.
        let mut counts = counts.as_flattened().iter();
        assert!(counts.all(|count| (836..=1164).contains(count)));
    }

    #[test]
    fn a_clone_continues_alike() {
        let mut random = Random::new(1);
        random.uniform();
        let mut clone = random.clone();
        assert_eq!(random.uniform(), clone.uniform());
        assert_ne!(Random::new(1).uniform(), Random::new(2).uniform());
    }
}
