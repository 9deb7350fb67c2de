//! Keys and values of earlier positions, on the device, per block and row.
//!
//! Every block keeps `[rows, n_kv_heads, slots, head_dim]` for keys and for values. Position p of
//! a row lies in slot p; slots beyond a row's fill hold leftovers that no mask lets through and
//! that the next positions overwrite. Slots are added by doubling, so that appending a token
//! copies the cache only now and then. Knows nothing of tokens or weights.

use burn::tensor::{Device, Tensor};
use soft_core::KvCache;

use crate::{Error, LlamaConfig, attention::Heads};

/// The key-value cache of one batch.
#[derive(Clone, Debug)]
pub struct Cache {
    blocks: Vec<BlockCache>,
    heads: Heads,
    rows: usize,
    capacity: usize,
    device: Device,
}

#[derive(Clone, Debug)]
struct BlockCache {
    /// Keys and values; none before the first position.
    stored: Option<(Tensor<4>, Tensor<4>)>,
    /// Positions held, per row.
    filled: Vec<usize>,
}

/// Where a pass of `seq` positions goes: checked once, then the same for each of its blocks.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    /// First new position of each row.
    pub starts: Vec<usize>,
    /// Number of new positions, the same for all rows.
    pub seq: usize,
    /// Keys that any row may see afterwards.
    pub keys: usize,
}

impl Span {
    /// Whether all rows continue at one position.
    pub fn common_start(&self) -> Option<usize> {
        let first = *self.starts.first()?;
        self.starts
            .iter()
            .all(|&start| start == first)
            .then_some(first)
    }
}

impl Cache {
    /// An empty cache for `rows` rows of at most `capacity` positions. Memory is taken as
    /// positions come.
    ///
    /// # Errors
    /// [`Error::CacheFull`] when `capacity` exceeds what the model was made for.
    pub fn new(
        config: &LlamaConfig,
        rows: usize,
        capacity: usize,
        device: &Device,
    ) -> Result<Self, Error> {
        if capacity > config.max_positions {
            let (wanted, capacity) = (capacity, config.max_positions);
            return Err(Error::CacheFull {
                row: 0,
                wanted,
                capacity,
            });
        }
        let empty = BlockCache {
            stored: None,
            filled: vec![0; rows],
        };
        Ok(Self {
            blocks: vec![empty; config.n_layers],
            heads: Heads {
                query: config.n_heads,
                key_value: config.n_kv_heads,
                dim: config.head_dim,
            },
            rows,
            capacity,
            device: device.clone(),
        })
    }

    /// Checks that `seq` more positions fit into every block of `range`, which must be filled alike.
    pub(crate) fn span(
        &self,
        range: std::ops::Range<usize>,
        rows: usize,
        seq: usize,
    ) -> Result<Span, Error> {
        let mismatch = |reason: String| Err(Error::CacheMismatch { reason });
        if rows != self.rows {
            return mismatch(format!(
                "it has {} rows, the hidden state {rows}",
                self.rows
            ));
        }
        let Some(blocks) = self.blocks.get(range.clone()) else {
            return mismatch(format!(
                "it has {} blocks, blocks {range:?} are run",
                self.blocks.len()
            ));
        };
        let Some(first) = blocks.first() else {
            return Ok(Span {
                starts: vec![0; rows],
                seq,
                keys: seq,
            });
        };
        if blocks.iter().any(|block| block.filled != first.filled) {
            return mismatch(format!(
                "blocks {range:?} do not all hold the same positions"
            ));
        }
        for (row, filled) in first.filled.iter().enumerate() {
            let wanted = filled + seq;
            if wanted > self.capacity {
                return Err(Error::CacheFull {
                    row,
                    wanted,
                    capacity: self.capacity,
                });
            }
        }
        let keys = first.filled.iter().max().map_or(seq, |most| most + seq);
        Ok(Span {
            starts: first.filled.clone(),
            seq,
            keys,
        })
    }

    /// Stores new keys and values, `[rows, n_kv_heads, seq, head_dim]`, and returns all that any row
    /// may see, `[rows, n_kv_heads, keys, head_dim]`.
    pub(crate) fn append(
        &mut self,
        block: usize,
        span: &Span,
        k: Tensor<4>,
        v: Tensor<4>,
    ) -> (Tensor<4>, Tensor<4>) {
        let (rows, capacity) = (self.rows, self.capacity);
        let Heads { key_value, dim, .. } = self.heads;
        let block = &mut self.blocks[block];
        let slots = block.stored.as_ref().map_or(0, |(keys, _)| keys.dims()[2]);
        let (keys, values) = match block.stored.take() {
            Some(stored) if slots >= span.keys => stored,
            outgrown => {
                let wanted = span.keys.max(2 * slots).max(MIN_SLOTS).min(capacity);
                let device = &self.device;
                let room = || Tensor::zeros([rows, key_value, wanted - slots, dim], device);
                match outgrown {
                    Some((keys, values)) => (
                        Tensor::cat(vec![keys, room()], 2),
                        Tensor::cat(vec![values, room()], 2),
                    ),
                    None => (room(), room()),
                }
            }
        };
        let (keys, values) = (write(keys, span, k), write(values, span, v));
        for (filled, start) in block.filled.iter_mut().zip(&span.starts) {
            *filled = start + span.seq;
        }
        let seen = |stored: &Tensor<4>| stored.clone().narrow(2, 0, span.keys);
        let visible = (seen(&keys), seen(&values));
        block.stored = Some((keys, values));
        visible
    }
}

/// Slots taken at first: small enough to cost nothing, large enough for a short answer.
const MIN_SLOTS: usize = 64;

/// Puts `new` at each row's start; in place where the backend can.
fn write(stored: Tensor<4>, span: &Span, new: Tensor<4>) -> Tensor<4> {
    let [rows, heads, _, dim] = stored.dims();
    if let Some(start) = span.common_start() {
        return stored.slice_assign([0..rows, 0..heads, start..start + span.seq, 0..dim], new);
    }
    let place = |stored: Tensor<4>, (row, &start): (usize, &usize)| {
        let row_of_new = new.clone().narrow(0, row, 1);
        stored.slice_assign(
            [row..row + 1, 0..heads, start..start + span.seq, 0..dim],
            row_of_new,
        )
    };
    span.starts.iter().enumerate().fold(stored, place)
}

impl KvCache for Cache {
    fn rows(&self) -> usize {
        self.rows
    }

    fn filled(&self, block: usize, row: usize) -> usize {
        self.blocks[block].filled[row]
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn truncate(&mut self, row: usize, positions: usize) {
        for block in &mut self.blocks {
            block.filled[row] = block.filled[row].min(positions);
        }
    }
}
