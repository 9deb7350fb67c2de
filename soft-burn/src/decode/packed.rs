//! Packed states of ragged rows through blocks and a cache.
//!
//! On flex the kernels take them as they are. Elsewhere linear layers run on the packed states, and attention on rows padded
//! to one length, whose padding is computed, never read and overwritten in the cache by what comes next.

use std::ops::Range;

use burn::tensor::Tensor;
use soft_core::Past;

use crate::decode::cache::{Cache, Store};
use crate::error::Error;
use crate::model::kv_store::{Span, TensorStore};
use crate::model::llama::Llama;

impl Llama {
    /// Packed states `[1, n, d_model]` through the blocks of `range`.
    pub(crate) fn packed_blocks(
        &self,
        hidden: Tensor<3>,
        range: Range<usize>,
        past: Past<Cache>,
    ) -> Result<Tensor<3>, Error> {
        let [rows, states, d_model] = hidden.dims();
        let Past {
            cache,
            query_lens: counts,
        } = past;
        let starts = cache.lengths.starts(&range, counts, rows * states)?;
        let hidden = match &mut cache.store {
            Store::Tensors(stores) => {
                let seq = counts.iter().copied().max().unwrap_or(0);
                let span = Span::new(starts, seq);
                let pass = self.pass(counts, &span);
                let states = hidden.reshape([rows * states, d_model]);
                let blocks = self.model.layers[range.clone()].iter();
                blocks
                    .zip(&mut stores[range.clone()])
                    .fold(states, |states, (block, store)| {
                        block.forward(states, &pass, Some((store, &span)))
                    })
            }
            #[cfg(feature = "flex")]
            Store::Host(stores, _) => {
                self.host_blocks(hidden, range.clone(), stores, (&starts, counts))?
            }
        };
        cache.lengths.advance(range, counts);
        Ok(hidden.reshape([rows, states, d_model]))
    }

    /// An empty cache on the model's device.
    ///
    /// # Errors
    /// When `capacity` exceeds the positions the model was made for.
    pub fn new_cache(&self, rows: usize, capacity: usize) -> Result<Cache, Error> {
        let most = self.config.max_positions;
        if capacity > most {
            return Err(Error::CacheBeyondModel { capacity, most });
        }
        Ok(Cache::new(self.empty_store(rows), rows, capacity))
    }

    fn empty_store(&self, rows: usize) -> Store {
        let heads = crate::model::block::heads_of(&self.config);
        #[cfg(feature = "flex")]
        if self.is_on_host() {
            let block = vec![Default::default(); rows * heads.key_value];
            return Store::Host(vec![block; self.config.n_layers], heads);
        }
        let block = TensorStore::new(rows, heads, self.device());
        Store::Tensors(vec![block; self.config.n_layers])
    }
}
