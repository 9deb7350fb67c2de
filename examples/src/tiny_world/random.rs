//! Random numbers of the world. The text of a seed is the same in all versions.

use soft_core::random::{SplitMix64, shuffle};

/// A random number generator.
#[derive(Debug, Clone)]
pub struct Random(SplitMix64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(SplitMix64::new(seed))
    }

    /// An independent stream for item `index` of `seed`, so that an item does not depend on the
    /// number of items.
    pub fn stream(seed: u64, index: u64) -> Self {
        Self::new(SplitMix64::mix(
            seed ^ SplitMix64::mix(index.wrapping_add(1)),
        ))
    }

    /// A number in `0..end`. `end` must not be 0.
    pub fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.0.next_u64()) * end as u128) >> 64) as usize
    }

    /// A number from `first` to `last`, both included.
    pub fn between(&mut self, first: usize, last: usize) -> usize {
        first + self.below(last - first + 1)
    }

    /// One of `items`, which must not be empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// Shuffles `items`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        shuffle(items, |bound| self.below(bound));
    }

    /// `count` different items, in a random order.
    pub fn sample<T: Copy>(&mut self, items: &[T], count: usize) -> Vec<T> {
        let mut all = items.to_vec();
        self.shuffle(&mut all);
        all.truncate(count);
        all
    }
}

/// A hash of `text` (FNV-1a, then mixed) that is stable between releases, unlike that of std.
pub fn hash(text: &str) -> u64 {
    SplitMix64::mix(text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, byte| {
        (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    }))
}
