//! Decoder blocks over packed states and a cache.
//!
//! The reference implementation is `Block::forward` in `model::block`, passed in as a closure. This
//! module chooses between it and the CPU kernels, which run all blocks of a pass on slices, or those
//! of CubeCL, for few states.
//! `tests::laws` checks that they agree.

use std::ops::Range;

use burn::tensor::Tensor;

use crate::error::Error;
use crate::ops::attention::Heads;
#[cfg(feature = "cube")]
use crate::ops::cube;
use crate::ops::kv_store::{KvStore, Storage};
use crate::ops::tensor_store::TensorStore;

pub(crate) struct BlockTensors {
    /// Query, key, value, attention output, gate, up and down, each `[d_out, d_in]`.
    pub projections: [Tensor<2>; 7],
    /// Before attention and before the feed-forward, `[d_model]` each.
    pub norms: [Tensor<1>; 2],
}

pub(crate) struct DecodePass<'a> {
    pub heads: Heads,
    pub norm_eps: f32,
    /// Rotary frequencies, in radians per position.
    pub frequencies: &'a [f32],
    /// First new position of each row.
    pub starts: &'a [usize],
    /// New positions of each row.
    pub query_lens: &'a [usize],
}

impl DecodePass<'_> {
    /// New positions of the row that has most.
    pub fn longest(&self) -> usize {
        self.query_lens.iter().copied().max().unwrap_or(0)
    }
}

/// Runs packed states `[n, d_model]` through the blocks of `range` and appends keys and values to
/// `store`. `weights` returns those of a block; `reference` runs the blocks with tensor operations.
pub(crate) fn decode_blocks(
    (x, pass): (Tensor<2>, &DecodePass),
    (store, range): (&mut KvStore, Range<usize>),
    weights: impl Fn(usize) -> BlockTensors,
    reference: impl FnOnce(Tensor<2>, &mut [TensorStore]) -> Tensor<2>,
) -> Result<Tensor<2>, Error> {
    match &mut store.0 {
        #[cfg(feature = "cube")]
        Storage::Tensors(stores) if cube::decodes(&x) => {
            let weights = range.clone().map(weights);
            Ok(cube::decode_blocks(x, pass, &mut stores[range], weights))
        }
        Storage::Tensors(stores) => Ok(reference(x, &mut stores[range])),
        #[cfg(feature = "flex")]
        Storage::Host(store) => {
            let weights = range.clone().map(weights);
            crate::ops::flex::decode_blocks(x, pass, store.blocks(range), weights)
        }
    }
}

/// Appends the keys and values of packed states `[n, d_model]` to `store` for `block`, whose
/// weights these are. `reference` does it with tensor operations.
pub(crate) fn append_states(
    (x, pass): (Tensor<2>, &DecodePass),
    (store, block): (&mut KvStore, usize),
    weights: BlockTensors,
    reference: impl FnOnce(Tensor<2>, &mut TensorStore),
) -> Result<(), Error> {
    match &mut store.0 {
        Storage::Tensors(stores) => {
            reference(x, &mut stores[block]);
            Ok(())
        }
        #[cfg(feature = "flex")]
        Storage::Host(store) => {
            crate::ops::flex::append_states(x, pass, store.blocks(block..block + 1), weights)
        }
    }
}
