//! A key-value cache: a backend's storage, and how far it is filled.
//!
//! The storage is the backend's, in whatever form it keeps keys and values; the bookkeeping is done
//! here, once for all backends. Truncating changes the lengths only: slots beyond a row's length
//! hold stale values, which the next positions overwrite.

use std::ops::Range;

use crate::model::cache_lengths::{CacheError, CacheLengths};

/// Keys and values of the positions seen so far, per row and block.
///
/// Rows may hold different numbers of positions, and blocks too: after an early exit the deeper
/// blocks lag behind.
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

    /// The positions that each block holds of each row.
    pub fn lengths(&self) -> &CacheLengths {
        &self.lengths
    }

    /// Forgets what `row` holds beyond its first `positions`, in every block.
    pub fn truncate(&mut self, row: usize, positions: usize) {
        self.lengths.truncate(row, positions);
    }

    /// Makes room in the blocks of `range` for `states` packed states, `query_lens` of each row;
    /// returns the position at which each row continues, and the storage to write to. What the
    /// storage holds of a row at or beyond that position is stale.
    ///
    /// # Errors
    /// What does not fit; nothing has changed then.
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
