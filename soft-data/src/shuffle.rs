//! Reproducible shuffles: a resumed run continues in the order of the uninterrupted run.

use soft_core::random::{self, Random, tag};

/// Purpose of a shuffle; gives independent orders for the same seed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// The rows of an epoch.
    Rows,
    /// The batches of an epoch.
    Batches,
    /// The choice of validation rows.
    Split,
}

/// Shuffles `items`. The order is a function of `purpose`, `seed`, `epoch` and the length.
pub(crate) fn shuffle<T>(items: &mut [T], purpose: Purpose, seed: u64, epoch: u64) {
    let purpose = match purpose {
        Purpose::Rows => tag(b"rows    "),
        Purpose::Batches => tag(b"batches "),
        Purpose::Split => tag(b"split   "),
    };
    let mut random = Random::keyed([seed, epoch, purpose, 0]);
    random::shuffle(items, |bound| random.below(bound));
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

    /// Do not change these values: existing runs could not be resumed or repeated. They come from
    /// an independent implementation, `tests/orders.py`.
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

    proptest! {
        #[test]
        fn a_shuffle_loses_nothing(seed in any::<u64>(), epoch in any::<u64>(), len in 0_usize..200) {
            let mut sorted = order(Purpose::Rows, seed, epoch, len);
            sorted.sort_unstable();
            prop_assert!(sorted.into_iter().eq(0..len));
        }
    }
}
