//! Decoder blocks over packed states and a cache.
//!
//! The definition is `Block::forward` in `model::block`, which comes in as a closure; this file
//! chooses between it and the CPU kernels, which run all blocks of a pass over slices.
//! `decode::packed` tests that they agree.

use std::ops::Range;

use burn::tensor::Tensor;

use crate::error::Error;
use crate::ops::attention::Heads;
use crate::ops::kv_store::{KvStore, Storage};
use crate::ops::tensor_store::TensorStore;

/// The weights of a block.
pub(crate) struct BlockTensors {
    /// Queries, keys, values, attention output, gate, up and down, each `[d_out, d_in]`.
    pub projections: [Tensor<2>; 7],
    /// Before attention and before the feed-forward, `[d_model]` each.
    pub norms: [Tensor<1>; 2],
}

/// One pass of packed states.
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

/// Packed states `[n, d_model]` through the blocks of `range`; new keys and values go to `store`.
/// `weights` gives those of a block, `reference` runs the blocks by tensor operations.
pub(crate) fn decode_blocks(
    (x, pass): (Tensor<2>, &DecodePass),
    (store, range): (&mut KvStore, Range<usize>),
    weights: impl Fn(usize) -> BlockTensors,
    reference: impl FnOnce(Tensor<2>, &mut [TensorStore]) -> Tensor<2>,
) -> Result<Tensor<2>, Error> {
    match &mut store.0 {
        Storage::Tensors(stores) => Ok(reference(x, &mut stores[range])),
        #[cfg(feature = "flex")]
        Storage::Host(store) => {
            let weights = range.clone().map(weights);
            crate::ops::flex::decode_blocks(x, pass, store.blocks(range), weights)
        }
    }
}
