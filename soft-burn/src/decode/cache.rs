//! Keys and values of earlier positions, per block and row.
//!
//! How far each row is filled in each block is kept in [`CacheLengths`]; where keys and values lie depends on the
//! backend: in slices on the host for flex, whose kernels read them there, in tensors elsewhere. Knows nothing of tokens or
//! weights.

use soft_core::KvCache;
use soft_core::model::CacheLengths;

#[cfg(feature = "flex")]
use crate::model::kv_store::TensorStore;
#[cfg(feature = "flex")]
use crate::ops::attention::Heads;
use crate::ops::flex::HeadStore;

/// The key-value cache of one batch.
#[derive(Clone, Debug)]
pub struct Cache {
    pub(crate) lengths: CacheLengths,
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
            lengths: CacheLengths::new(blocks, rows, capacity),
            store,
        }
    }
}

impl KvCache for Cache {
    fn lengths(&self) -> &CacheLengths {
        &self.lengths
    }

    fn truncate(&mut self, row: usize, positions: usize) {
        self.lengths.truncate(row, positions);
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
