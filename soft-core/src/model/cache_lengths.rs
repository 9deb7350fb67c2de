//! How far a key-value cache is filled: bookkeeping that is independent of the storage.
//!
//! Gives the position at which each row continues, and refuses invalid passes for all backends.

use std::ops::Range;

use thiserror::Error;

/// Number of positions of each row in each block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheLengths {
    /// `[block][row]`.
    filled: Vec<Vec<usize>>,
    rows: usize,
    capacity: usize,
}

/// A pass that does not fit its cache.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CacheError {
    /// Counts for more or fewer rows than the cache has.
    #[error("counts for {found} rows: the cache has {expected}")]
    Rows {
        /// Rows of the cache.
        expected: usize,
        /// Number of counts.
        found: usize,
    },
    /// The number of packed states is not the sum of the counts.
    #[error("{found} packed states: the rows bring {expected}")]
    States {
        /// Sum of the counts.
        expected: usize,
        /// Number of packed states.
        found: usize,
    },
    /// Blocks outside the cache.
    #[error("blocks {range:?}: the cache is of {depth} blocks")]
    NoSuchBlocks {
        /// The blocks to run.
        range: Range<usize>,
        /// Number of blocks of the cache.
        depth: usize,
    },
    /// A row whose next position differs between the blocks to run.
    #[error("blocks {range:?} do not hold the same positions of row {row}")]
    Uneven {
        /// The row at fault.
        row: usize,
        /// The blocks to run.
        range: Range<usize>,
    },
    /// More positions than the cache, or the model, can hold.
    #[error("row {row} would hold {wanted} positions: the capacity is {capacity}")]
    Full {
        /// The row at fault.
        row: usize,
        /// Positions it would hold.
        wanted: usize,
        /// Maximum number of positions.
        capacity: usize,
    },
}

impl CacheLengths {
    /// The lengths of an empty cache.
    pub fn new(depth: usize, rows: usize, capacity: usize) -> Self {
        Self {
            filled: vec![vec![0; rows]; depth],
            rows,
            capacity,
        }
    }

    /// The position at which each row continues in the blocks of `range`. These must be filled
    /// alike, and the `counts` of new positions must add up to `states` and fit.
    ///
    /// # Errors
    /// [`CacheError`] for the first violated condition.
    pub fn starts(
        &self,
        range: &Range<usize>,
        counts: &[usize],
        states: usize,
    ) -> Result<Vec<usize>, CacheError> {
        self.check_counts(counts, states)?;
        let Some(blocks) = self.filled.get(range.clone()) else {
            return Err(CacheError::NoSuchBlocks {
                range: range.clone(),
                depth: self.filled.len(),
            });
        };
        let Some(first) = blocks.first() else {
            return Ok(vec![0; self.rows]);
        };
        // A row without new positions, such as a stopped one, may be filled unevenly.
        let uneven = |row: &usize| blocks.iter().any(|block| block[*row] != first[*row]);
        let mut rows = (0..self.rows).filter(|&row| counts[row] > 0);
        if let Some(row) = rows.clone().find(uneven) {
            let range = range.clone();
            return Err(CacheError::Uneven { row, range });
        }
        match rows.find(|&row| first[row] + counts[row] > self.capacity) {
            None => Ok(first.clone()),
            Some(row) => Err(CacheError::Full {
                row,
                wanted: first[row] + counts[row],
                capacity: self.capacity,
            }),
        }
    }

    fn check_counts(&self, counts: &[usize], states: usize) -> Result<(), CacheError> {
        let expected: usize = counts.iter().sum();
        if counts.len() != self.rows {
            return Err(CacheError::Rows {
                expected: self.rows,
                found: counts.len(),
            });
        }
        if expected != states {
            return Err(CacheError::States {
                expected,
                found: states,
            });
        }
        Ok(())
    }

    /// Adds `counts` positions of each row to the blocks of `range`, which must exist.
    pub fn advance(&mut self, range: Range<usize>, counts: &[usize]) {
        for filled in &mut self.filled[range] {
            for (filled, count) in filled.iter_mut().zip(counts) {
                *filled += count;
            }
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of positions of `row` in block `block`.
    pub fn filled(&self, block: usize, row: usize) -> usize {
        self.filled[block][row]
    }

    /// Maximum number of positions of a row.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Drops the positions of `row` after the first `positions`, in every block.
    pub fn truncate(&mut self, row: usize, positions: usize) {
        for filled in &mut self.filled {
            filled[row] = filled[row].min(positions);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 3 blocks and 2 rows; row 0 has 4 positions in block 0 and 2 in the others.
    fn held() -> CacheLengths {
        let mut held = CacheLengths::new(3, 2, 5);
        held.advance(0..3, &[2, 0]);
        held.advance(0..1, &[2, 0]);
        held
    }

    #[test]
    fn rows_go_on_where_they_stopped() {
        assert_eq!(held().starts(&(1..3), &[1, 2], 3), Ok(vec![2, 0]));
        assert_eq!(held().starts(&(0..1), &[1, 5], 6), Ok(vec![4, 0]));
        assert_eq!(held().starts(&(2..2), &[1, 5], 6), Ok(vec![0, 0]));
        let mut shorter = held();
        shorter.truncate(0, 1);
        assert_eq!(shorter.starts(&(0..3), &[1, 1], 2), Ok(vec![1, 0]));
        // A row without new positions may be filled unevenly.
        assert_eq!(held().starts(&(0..3), &[0, 1], 1), Ok(vec![4, 0]));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let refused = |range: Range<usize>, counts: &[usize], states| {
            let error = held().starts(&range, counts, states).unwrap_err();
            error.to_string()
        };
        assert_eq!(refused(0..3, &[1], 1), "counts for 1 rows: the cache has 2");
        assert_eq!(
            refused(0..3, &[1, 2], 4),
            "4 packed states: the rows bring 3"
        );
        assert_eq!(
            refused(2..4, &[1, 1], 2),
            "blocks 2..4: the cache is of 3 blocks"
        );
        assert_eq!(
            refused(0..2, &[1, 1], 2),
            "blocks 0..2 do not hold the same positions of row 0"
        );
        assert_eq!(
            refused(0..1, &[2, 1], 3),
            "row 0 would hold 6 positions: the capacity is 5"
        );
    }
}
