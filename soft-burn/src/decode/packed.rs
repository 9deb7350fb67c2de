//! Forward pass with a KV cache over packed states of rows of unequal length.
//!
//! The kernels for the CPU and in CubeCL process packed states directly. Elsewhere, linear layers
//! run on packed states and attention on rows padded to a common length. Results for padding are
//! never read, and later positions overwrite them in the cache.

use std::ops::Range;

use burn::tensor::Tensor;
use soft_core::Past;
use soft_core::model::KvCache;

use crate::error::Error;
use crate::model::block::{Block, Residual, heads_of};
use crate::model::llama::Llama;
use crate::ops::decoder_block::{DecodePass, append_states, decode_blocks};
use crate::ops::kv_store::KvStore;
use crate::ops::rope::Rotary;
use crate::ops::tensor_store::{Span, TensorStore};

impl Llama {
    /// Runs packed states `[1, n, d_model]` through the blocks of `range`.
    pub(crate) fn packed_blocks(
        &self,
        hidden: Tensor<3>,
        range: Range<usize>,
        past: Past<KvStore>,
    ) -> Result<Tensor<3>, Error> {
        let [rows, states, d_model] = hidden.dims();
        let Past { cache, query_lens } = past;
        let (starts, store) = cache.append(&range, query_lens, rows * states)?;
        let x = hidden.reshape([rows * states, d_model]);
        let rotary = self.rotary();
        let pass = self.decode_pass(&rotary, &starts, query_lens);
        let x = decode_blocks(
            (x, &pass),
            (store, range.clone()),
            || {
                range
                    .clone()
                    .filter_map(|block| self.block(block))
                    .map(Block::tensors)
            },
            |x, stores| self.padded_blocks(x, range.clone(), &pass, stores),
        )?;
        Ok(x.reshape([rows, states, d_model]))
    }

    /// Appends the keys and values of packed states `[1, n, d_model]` to `block`.
    pub(crate) fn append_packed(
        &self,
        hidden: Tensor<3>,
        block: usize,
        past: Past<KvStore>,
    ) -> Result<(), Error> {
        let range = block..block + 1;
        self.check_blocks(&range)?;
        let Some(layers) = self.block(block) else {
            return Ok(());
        };
        let [rows, states, d_model] = hidden.dims();
        let Past { cache, query_lens } = past;
        let (starts, store) = cache.append(&range, query_lens, rows * states)?;
        let x = hidden.reshape([rows * states, d_model]);
        let rotary = self.rotary();
        let pass = self.decode_pass(&rotary, &starts, query_lens);
        append_states((x, &pass), (store, block), layers.tensors(), |x, store| {
            let span = Span::new(starts.clone(), pass.longest());
            let shared = self.pass(query_lens, &span);
            layers.append(x, &shared, (store, &span));
        })
    }

    fn decode_pass<'a>(
        &self,
        rotary: &'a Rotary,
        starts: &'a [usize],
        query_lens: &'a [usize],
    ) -> DecodePass<'a> {
        DecodePass {
            heads: heads_of(&self.config),
            norm_eps: self.config.norm_eps as f32,
            rotary,
            starts,
            query_lens,
        }
    }

    /// Reference implementation with tensor operations.
    fn padded_blocks(
        &self,
        x: Tensor<2>,
        range: Range<usize>,
        pass: &DecodePass,
        stores: &mut [TensorStore],
    ) -> Tensor<2> {
        let span = Span::new(pass.starts.to_vec(), pass.longest());
        let shared = self.pass(pass.query_lens, &span);
        let blocks = range.filter_map(|block| self.block(block)).zip(stores);
        let states = blocks.fold(Residual::new(x), |states, (block, store)| {
            block.forward(states, &shared, Some((store, &span)))
        });
        states.sum()
    }

    /// An empty cache on the model's device.
    ///
    /// # Errors
    /// When `capacity` exceeds the positions the model was made for.
    pub fn new_cache(&self, rows: usize, capacity: usize) -> Result<KvCache<KvStore>, Error> {
        let store = self.new_store(rows, capacity)?;
        Ok(KvCache::new(store, self.blocks_in_all(), rows, capacity))
    }

    pub(crate) fn new_store(&self, rows: usize, capacity: usize) -> Result<KvStore, Error> {
        let (norm, most) = (self.model.norm.weight.val(), self.config.max_positions);
        if capacity > most {
            return Err(Error::CacheBeyondModel { capacity, most });
        }
        let heads = heads_of(&self.config);
        let blocks = self.blocks_in_all();
        Ok(KvStore::new(&norm, blocks, (rows, capacity), heads))
    }
}
