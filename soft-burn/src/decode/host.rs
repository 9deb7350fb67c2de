//! LLaMA's decoding passes by the kernels, for tensors of the flex backend.
//!
//! Hands the kernels slices of the model's own tensors: nothing is copied but the states of a pass.

use std::ops::Range;

use burn::tensor::Tensor;
use soft_core::model::Head;

use crate::decode::decode_model::DraftHead;
use crate::error::Error;
use crate::model::block::{Block, heads_of};
use crate::model::llama::Llama;
use crate::ops::flex::{
    BlockRun, BlockWeights, HeadStore, HeadWeights, HostTensor, Place, host, is_flex_f32, tensor,
};

/// The tensors of one block.
struct HostBlock([HostTensor; 9]);

impl HostBlock {
    fn new(block: &Block) -> Result<Self, Error> {
        let Block {
            self_attn,
            mlp,
            input_layernorm,
            post_attention_layernorm,
        } = block;
        Ok(Self([
            host(self_attn.q_proj.weight.val())?,
            host(self_attn.k_proj.weight.val())?,
            host(self_attn.v_proj.weight.val())?,
            host(self_attn.o_proj.weight.val())?,
            host(mlp.gate_proj.weight.val())?,
            host(mlp.up_proj.weight.val())?,
            host(mlp.down_proj.weight.val())?,
            host(input_layernorm.weight.val())?,
            host(post_attention_layernorm.weight.val())?,
        ]))
    }

    fn weights(&self) -> BlockWeights<'_> {
        let [
            q,
            k,
            v,
            o,
            gate,
            up,
            down,
            attention_norm,
            feed_forward_norm,
        ] = self.0.each_ref().map(HostTensor::values);
        BlockWeights {
            q,
            k,
            v,
            o,
            gate,
            up,
            down,
            attention_norm,
            feed_forward_norm,
        }
    }
}

impl Llama {
    /// Whether the kernels can run this model.
    pub(crate) fn is_on_host(&self) -> bool {
        is_flex_f32(&self.model.norm.weight.val())
    }

    /// Packed states through the blocks of `range`: `[n, d_model]`.
    pub(crate) fn host_blocks(
        &self,
        hidden: Tensor<3>,
        range: Range<usize>,
        stores: &mut [Vec<HeadStore>],
        (starts, counts): (&[usize], &[usize]),
    ) -> Result<Tensor<2>, Error> {
        let [_, n, d_model] = hidden.dims();
        let blocks = self.host_tensors(range.clone())?;
        let weights: Vec<_> = blocks.iter().map(HostBlock::weights).collect();
        let run = self.run(starts, counts);
        let mut x = host(hidden.clone())?.values().to_vec();
        let stores = &mut stores[range];
        // One switch to the pool's threads for the whole pass.
        rayon::scope(|_| {
            for (weights, stores) in weights.iter().zip(stores) {
                run.block(weights, &mut x, stores);
            }
        });
        Ok(tensor(x, [n, d_model], &hidden))
    }

    fn host_tensors(&self, range: Range<usize>) -> Result<Vec<HostBlock>, Error> {
        self.model.layers[range]
            .iter()
            .map(HostBlock::new)
            .collect()
    }

    fn run(&self, starts: &[usize], counts: &[usize]) -> BlockRun {
        let places = starts.iter().zip(counts).enumerate();
        let places = places.flat_map(|(row, (&start, &count))| {
            (start..start + count).map(move |position| Place { row, position })
        });
        let config = &self.config;
        BlockRun::new(
            heads_of(config),
            config.d_model,
            config.norm_eps as f32,
            &self.frequencies(),
            places.collect(),
        )
    }

    /// What the kernels make of packed states with the norm and this head.
    pub(crate) fn with_host_head<T: Send>(
        &self,
        hidden: &Tensor<3>,
        head: Head<DraftHead>,
        read: impl FnOnce(&HeadWeights, &[f32]) -> T + Send,
    ) -> Result<T, Error> {
        let states = host(hidden.clone())?;
        let norm = host(self.model.norm.weight.val())?;
        let weight = host(self.head_tensor(head))?;
        let weights = HeadWeights {
            norm: norm.values(),
            eps: self.config.norm_eps as f32,
            weight: weight.values(),
        };
        let states = states.values();
        Ok(rayon::scope(|_| read(&weights, states)))
    }
}
