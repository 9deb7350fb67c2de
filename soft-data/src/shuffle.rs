//! Shuffles that stay the same for ever.
//!
//! Fisher-Yates over the ChaCha8 key stream, written out here so that no library upgrade can
//! change the order: a resumed run must see the rows the undisturbed run would have seen. Knows
//! nothing of what is shuffled.
//!
//! Source: Durstenfeld, *Algorithm 235*, 1964; Bernstein, *ChaCha*, 2008.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// What a shuffle is for, so that one seed gives independent orders.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// The rows of an epoch.
    Rows,
    /// The batches of an epoch.
    Batches,
    /// The choice of validation rows.
    Split,
}

/// Puts `items` into the order that belongs to `seed`, `epoch` and `purpose` and nothing else.
pub(crate) fn shuffle<T>(items: &mut [T], purpose: Purpose, seed: u64, epoch: u64) {
    let tag: [u8; 8] = match purpose {
        Purpose::Rows => *b"rows    ",
        Purpose::Batches => *b"batches ",
        Purpose::Split => *b"split   ",
    };
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&epoch.to_le_bytes());
    key[16..24].copy_from_slice(&tag);
    let mut random = ChaCha8Rng::from_seed(key);
    for last in (1..items.len()).rev() {
        items.swap(last, below(&mut random, last as u64 + 1) as usize);
    }
}

/// A number below `bound`, all equally likely: draws from the incomplete last run of the
/// remainders are thrown away.
fn below(random: &mut ChaCha8Rng, bound: u64) -> u64 {
    let complete = u64::MAX - u64::MAX % bound;
    loop {
        let draw = random.next_u64();
        if draw < complete {
            return draw % bound;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, proptest};

    use super::*;

    fn order(purpose: Purpose, seed: u64, epoch: u64, len: usize) -> Vec<usize> {
        let mut order: Vec<_> = (0..len).collect();
        shuffle(&mut order, purpose, seed, epoch);
        order
    }

    /// The ChaCha8 key stream of the all-zero key, from the published test vectors.
    #[test]
    fn the_generator_is_chacha8() {
        let mut random = ChaCha8Rng::from_seed([0; 32]);
        assert_eq!(
            random.next_u64().to_le_bytes(),
            [0x3e, 0x00, 0xef, 0x2f, 0x89, 0x5f, 0x40, 0xd6]
        );
    }

    /// Never change these: they are the orders of runs that people want to resume or repeat.
    /// From an implementation of its own: `tests/orders.py`.
    #[test]
    fn orders_are_pinned() {
        assert_eq!(
            order(Purpose::Rows, 42, 0, 10),
            [6, 3, 0, 8, 5, 4, 9, 1, 2, 7]
        );
        assert_eq!(
            order(Purpose::Rows, 42, 1, 10),
            [3, 9, 7, 5, 2, 1, 4, 8, 0, 6]
        );
        assert_eq!(
            order(Purpose::Batches, 42, 0, 10),
            [0, 7, 5, 2, 8, 4, 3, 1, 9, 6]
        );
        assert_eq!(
            order(Purpose::Split, 42, 0, 10),
            [0, 3, 1, 8, 2, 5, 4, 6, 9, 7]
        );
    }

    #[test]
    fn every_place_is_equally_likely() {
        let mut counts = [[0_u32; 4]; 4];
        for seed in 0..4000 {
            for (place, &item) in order(Purpose::Rows, seed, 0, 4).iter().enumerate() {
                counts[item][place] += 1;
            }
        }
        // Mean 1000, standard deviation 27: six of them.
        assert!(
            counts
                .as_flattened()
                .iter()
                .all(|count| (836..=1164).contains(count))
        );
    }

    proptest! {
        #[test]
        fn a_shuffle_loses_nothing(seed in any::<u64>(), epoch in any::<u64>(), len in 0_usize..200) {
            let mut sorted = order(Purpose::Rows, seed, epoch, len);
            sorted.sort_unstable();
            prop_assert!(sorted.into_iter().eq(0..len));
        }
    }
}
