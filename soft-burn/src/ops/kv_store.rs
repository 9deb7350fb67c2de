//! Keys and values of all blocks, in tensors, or on the host for the CPU kernels.

use burn::tensor::Tensor;

use crate::ops::attention::Heads;
#[cfg(feature = "flex")]
use crate::ops::flex::{HostStore, is_flex_f32};
use crate::ops::tensor_store::TensorStore;

/// Keys and values of every block and row; how far they are filled is counted by soft-core's
/// `KvCache`.
#[derive(Clone, Debug)]
pub struct KvStore(pub(super) Storage);

#[derive(Clone, Debug)]
pub(super) enum Storage {
    /// Block by block.
    Tensors(Vec<TensorStore>),
    #[cfg(feature = "flex")]
    Host(HostStore),
}

impl KvStore {
    /// An empty store for a model with this final norm, whose place and dtype decide where keys and
    /// values are kept. Memory is taken as positions come.
    pub(crate) fn new(norm: &Tensor<1>, blocks: usize, rows: usize, heads: Heads) -> Self {
        #[cfg(feature = "flex")]
        if is_flex_f32(norm) {
            return Self(Storage::Host(HostStore::new(blocks, rows, heads)));
        }
        Self::in_tensors(norm, blocks, rows, heads)
    }

    /// An empty store in tensors, wherever the model is.
    pub(crate) fn in_tensors(norm: &Tensor<1>, blocks: usize, rows: usize, heads: Heads) -> Self {
        let block = TensorStore::new(rows, heads, norm.device());
        Self(Storage::Tensors(vec![block; blocks]))
    }
}
