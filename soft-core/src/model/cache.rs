//! A key-value cache: a backend's storage, and how far it is filled.
//!
//! The form of the storage is up to the backend; the bookkeeping is shared. Truncation only changes
//! lengths: slots beyond a row's length hold stale values, which the next positions overwrite.

use std::ops::Range;

use crate::model::cache_lengths::{CacheError, CacheLengths};

/// Keys and values of earlier positions, per row and block.
///
/// Rows and blocks may hold different numbers of positions: deeper blocks lag after early exits.
#[derive(Clone, Debug)]
pub struct KvCache<Store> {
    store: Store,
    lengths: CacheLengths,
}

impl<Store> KvCache<Store> {
    /// An empty cache of `depth` blocks for `rows` rows of at most `capacity` positions.
    pub fn new(store: Store, depth: usize, rows: usize, capacity: usize) -> Self {
        Self {
            store,
            lengths: CacheLengths::new(depth, rows, capacity),
        }
    }

    /// The number of positions of each row in each block.
    pub fn lengths(&self) -> &CacheLengths {
        &self.lengths
    }

    /// Drops the positions of `row` after the first `positions`, in every block.
    pub fn truncate(&mut self, row: usize, positions: usize) {
        self.lengths.truncate(row, positions);
    }

    /// Makes room in the blocks of `range` for `states` packed states, `query_lens` of each row.
    /// Returns the position at which each row continues, and the storage to write to. Values in the
    /// storage at or after that position are stale.
    ///
    /// # Errors
    /// When the states do not fit; the cache is then unchanged.
    pub fn append(
        &mut self,
        range: &Range<usize>,
        query_lens: &[usize],
        states: usize,
    ) -> Result<(Vec<usize>, &mut Store), CacheError> {
        let starts = self.lengths.starts(range, query_lens, states)?;
        self.lengths.advance(range.clone(), query_lens);
        Ok((starts, &mut self.store))
    }
}
