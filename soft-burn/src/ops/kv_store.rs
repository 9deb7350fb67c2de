//! Keys and values of all blocks, in tensors or, for the CPU kernels, on the host.

use burn::tensor::Tensor;

use crate::ops::attention::Heads;
#[cfg(feature = "flex")]
use crate::ops::flex::{HostStore, is_flex_f32};
use crate::ops::tensor_store::TensorStore;

/// Keys and values of every block and row. soft-core's `KvCache` counts the filled positions.
#[derive(Clone, Debug)]
pub struct KvStore(pub(super) Storage);

#[derive(Clone, Debug)]
pub(super) enum Storage {
    /// One per block.
    Tensors(Vec<TensorStore>),
    #[cfg(feature = "flex")]
    Host(HostStore),
}

impl KvStore {
    /// An empty store for a model with this final norm, whose device and number type determine
    /// where keys and values are kept. `size` is the number of rows and the capacity of each.
    pub(crate) fn new(norm: &Tensor<1>, blocks: usize, size: (usize, usize), heads: Heads) -> Self {
        #[cfg(feature = "flex")]
        if is_flex_f32(norm) {
            return Self(Storage::Host(HostStore::new(blocks, size.0, heads)));
        }
        Self::in_tensors(norm, blocks, size, heads)
    }

    /// An empty store in tensors on the model's device.
    pub(crate) fn in_tensors(
        norm: &Tensor<1>,
        blocks: usize,
        size: (usize, usize),
        heads: Heads,
    ) -> Self {
        let block = TensorStore::new(size, heads, norm.device());
        Self(Storage::Tensors(vec![block; blocks]))
    }
}
