//! Decoder blocks over packed states and a cache.
//!
//! The reference implementation is `Block::forward` in `model::block`, passed in as a closure. This
//! module chooses between it and the CPU kernels, which run all blocks of a pass on slices, or
//! those of CubeCL, for few states and blocks without biases and head norms. `tests::laws`
//! checks that they agree.

use std::ops::Range;

use burn::tensor::Tensor;

use crate::error::Error;
use crate::ops::attention::Heads;
#[cfg(feature = "cube")]
use crate::ops::cube;
use crate::ops::kv_store::{KvStore, Storage};
use crate::ops::rope::Rotary;
use crate::ops::tensor_store::TensorStore;

/// The weights of a block; the block of an exit may lack one of the two.
#[derive(Clone)]
pub(crate) struct BlockTensors {
    pub attention: Option<AttentionTensors>,
    pub feed_forward: Option<FeedForwardTensors>,
}

/// A linear layer.
#[derive(Clone)]
pub(crate) struct LinearTensors {
    /// `[d_out, d_in]`.
    pub weight: Tensor<2>,
    /// `[d_out]`.
    pub bias: Option<Tensor<1>>,
}

#[derive(Clone)]
pub(crate) struct AttentionTensors {
    /// Before attention, `[d_model]`.
    pub norm: Tensor<1>,
    pub q: LinearTensors,
    pub k: LinearTensors,
    pub v: LinearTensors,
    pub o: LinearTensors,
    /// Of the queries of each head, `[head_dim]`.
    pub q_norm: Option<Tensor<1>>,
    /// Of the keys of each head, `[head_dim]`.
    pub k_norm: Option<Tensor<1>>,
    /// Positions a position attends to, itself included; `None` for all.
    pub window: Option<usize>,
}

#[derive(Clone)]
pub(crate) struct FeedForwardTensors {
    /// Before the feed-forward layer, `[d_model]`.
    pub norm: Tensor<1>,
    pub gate: LinearTensors,
    pub up: LinearTensors,
    pub down: LinearTensors,
}

pub(crate) struct DecodePass<'a> {
    pub heads: Heads,
    pub norm_eps: f32,
    pub rotary: &'a Rotary,
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
/// `store`. `weights` returns those of the blocks; `reference` runs them with tensor operations.
pub(crate) fn decode_blocks<W: Iterator<Item = BlockTensors>>(
    (x, pass): (Tensor<2>, &DecodePass),
    (store, range): (&mut KvStore, Range<usize>),
    weights: impl FnOnce() -> W,
    reference: impl FnOnce(Tensor<2>, &mut [TensorStore]) -> Tensor<2>,
) -> Result<Tensor<2>, Error> {
    match &mut store.0 {
        Storage::Tensors(stores) => {
            #[cfg(feature = "cube")]
            if cube::decodes(&x) {
                let blocks = weights().map(cube::PlainBlock::of);
                let blocks = blocks.collect::<Option<Vec<_>>>();
                if let Some(blocks) = blocks {
                    return Ok(cube::decode_blocks(x, pass, &mut stores[range], blocks));
                }
            }
            Ok(reference(x, &mut stores[range]))
        }
        #[cfg(feature = "flex")]
        Storage::Host(store) => {
            crate::ops::flex::decode_blocks(x, pass, store.blocks(range), weights())
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
