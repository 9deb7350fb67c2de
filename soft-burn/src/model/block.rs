//! A decoder block.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::model::attention::{Attention, Pass};
use crate::model::config::LlamaConfig;
use crate::model::kv_store::{Span, TensorStore};
use crate::model::layers::{FeedForward, Projection, RmsNorm};
use crate::ops::attention::Heads;

/// One decoder block: x + attention(norm x), then x + feed-forward(norm x).
#[derive(Module, Debug)]
pub(crate) struct Block {
    pub self_attn: Attention,
    pub mlp: FeedForward,
    pub input_layernorm: RmsNorm,
    pub post_attention_layernorm: RmsNorm,
}

impl Block {
    /// Its seven linear maps.
    pub(crate) fn projections(&self) -> [&Projection; 7] {
        let (attention, mlp) = (&self.self_attn, &self.mlp);
        [
            &attention.q_proj,
            &attention.k_proj,
            &attention.v_proj,
            &attention.o_proj,
            &mlp.gate_proj,
            &mlp.up_proj,
            &mlp.down_proj,
        ]
    }

    pub(crate) fn forward(
        &self,
        x: Tensor<2>,
        pass: &Pass,
        stored: Option<(&mut TensorStore, &Span)>,
    ) -> Tensor<2> {
        let attended =
            self.self_attn
                .forward(self.input_layernorm.forward(x.clone()), pass, stored);
        let x = x + attended;
        let fed = self
            .mlp
            .forward(self.post_attention_layernorm.forward(x.clone()));
        x + fed
    }
}

/// How an attention layer of this shape splits its width.
pub(crate) fn heads_of(config: &LlamaConfig) -> Heads {
    Heads {
        query: config.n_heads,
        key_value: config.n_kv_heads,
        dim: config.head_dim,
    }
}
