//! Keys and values of earlier positions, per block and row.
//!
//! The cache knows how far each row is filled in each block; where keys and values lie depends on the
//! backend: in slices on the host for flex, whose kernels read them there, in tensors elsewhere. Knows nothing of tokens or
//! weights.

use std::ops::Range;

use soft_core::KvCache;

use crate::Error;
use crate::attention::Heads;
#[cfg(feature = "flex")]
use crate::kernels::HeadStore;
use crate::tensor_store::TensorStore;

/// The key-value cache of one batch.
#[derive(Clone, Debug)]
pub struct Cache {
    /// Positions held, `[block][row]`.
    filled: Vec<Vec<usize>>,
    capacity: usize,
    pub(crate) store: Store,
}

/// Where keys and values lie, block by block.
#[derive(Clone, Debug)]
pub(crate) enum Store {
    Tensors(Vec<TensorStore>),
    /// Of row r and key head h at `r * kv_heads + h`.
    #[cfg(feature = "flex")]
    Host(Vec<Vec<HeadStore>>, Heads),
}

impl Cache {
    /// An empty cache for `rows` rows. Memory is taken as positions come.
    pub(crate) fn new(store: Store, rows: usize, capacity: usize) -> Self {
        let blocks = match &store {
            Store::Tensors(blocks) => blocks.len(),
            #[cfg(feature = "flex")]
            Store::Host(blocks, _) => blocks.len(),
        };
        Self {
            filled: vec![vec![0; rows]; blocks],
            capacity,
            store,
        }
    }

    /// Where each row goes on in the blocks of `range`, which must be filled alike; `counts` new positions
    /// of each row must make up `states` and fit.
    pub(crate) fn starts(
        &self,
        range: Range<usize>,
        counts: &[usize],
        states: usize,
    ) -> Result<Vec<usize>, Error> {
        let mismatch = |reason: String| Err(Error::CacheMismatch { reason });
        if counts.len() != self.rows() {
            return mismatch(format!(
                "it has {} rows, {} come",
                self.rows(),
                counts.len()
            ));
        }
        let wanted: usize = counts.iter().sum();
        if wanted != states {
            return mismatch(format!(
                "{states} packed states come, the rows bring {wanted}"
            ));
        }
        let Some(blocks) = self.filled.get(range.clone()) else {
            let depth = self.filled.len();
            return mismatch(format!("it has {depth} blocks, blocks {range:?} are run"));
        };
        let Some(first) = blocks.first() else {
            return Ok(vec![0; counts.len()]);
        };
        // A row that brings nothing, such as one that was stopped, may be filled unevenly.
        let uneven = |row: usize| counts[row] > 0 && blocks.iter().any(|b| b[row] != first[row]);
        if (0..counts.len()).any(uneven) {
            return mismatch(format!(
                "blocks {range:?} do not all hold the same positions"
            ));
        }
        for (row, (filled, count)) in first.iter().zip(counts).enumerate() {
            let wanted = filled + count;
            if wanted > self.capacity {
                let capacity = self.capacity;
                return Err(Error::CacheFull {
                    row,
                    wanted,
                    capacity,
                });
            }
        }
        Ok(first.clone())
    }

    /// Notes that the blocks of `range` hold so many more positions of each row.
    pub(crate) fn advance(&mut self, range: Range<usize>, counts: &[usize]) {
        for filled in &mut self.filled[range] {
            for (filled, count) in filled.iter_mut().zip(counts) {
                *filled += count;
            }
        }
    }
}

impl KvCache for Cache {
    fn rows(&self) -> usize {
        self.filled.first().map_or(0, Vec::len)
    }

    fn filled(&self, block: usize, row: usize) -> usize {
        self.filled[block][row]
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn truncate(&mut self, row: usize, positions: usize) {
        for filled in &mut self.filled {
            filled[row] = filled[row].min(positions);
        }
        #[cfg(feature = "flex")]
        if let Store::Host(blocks, heads) = &mut self.store {
            let kept = row * heads.key_value..(row + 1) * heads.key_value;
            for store in blocks.iter_mut().flat_map(|block| &mut block[kept.clone()]) {
                store.keys.truncate(positions * heads.dim);
                store.values.truncate(positions * heads.dim);
            }
        }
    }
}
