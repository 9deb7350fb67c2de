//! A decoder block.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::model::attention::Attention;
use crate::model::config::LlamaConfig;
use crate::model::layers::{FeedForward, Projection, RmsNorm};
use crate::ops::attention::Heads;
use crate::ops::decoder_block::BlockTensors;
use crate::ops::packed_attention::Pass;
use crate::ops::tensor_store::{Span, TensorStore};

/// One decoder block: x + attention(norm x), then x + feed-forward(norm x).
#[derive(Module, Debug)]
pub(crate) struct Block {
    pub self_attn: Attention,
    pub mlp: FeedForward,
    pub input_layernorm: RmsNorm,
    pub post_attention_layernorm: RmsNorm,
}

pub(crate) struct ProjectionSpec {
    /// Its name in PEFT's `target_modules`.
    pub target: &'static str,
    /// Its path within the block.
    pub path: &'static str,
    /// `[d_out, d_in]`.
    pub shape: fn(&LlamaConfig) -> [usize; 2],
}

/// The linear layers of a block, as initialized, loaded, saved, adapted and passed to the decoding
/// kernels. [`Block::build`] and [`Block::projections`] use the same order.
pub(crate) const PROJECTIONS: [ProjectionSpec; 7] = [
    projection("q_proj", "self_attn.q_proj", |it| [queries(it), it.d_model]),
    projection("k_proj", "self_attn.k_proj", |it| [keys(it), it.d_model]),
    projection("v_proj", "self_attn.v_proj", |it| [keys(it), it.d_model]),
    projection("o_proj", "self_attn.o_proj", |it| [it.d_model, queries(it)]),
    projection("gate_proj", "mlp.gate_proj", |it| {
        [it.d_feed_forward, it.d_model]
    }),
    projection("up_proj", "mlp.up_proj", |it| {
        [it.d_feed_forward, it.d_model]
    }),
    projection("down_proj", "mlp.down_proj", |it| {
        [it.d_model, it.d_feed_forward]
    }),
];

const fn projection(
    target: &'static str,
    path: &'static str,
    shape: fn(&LlamaConfig) -> [usize; 2],
) -> ProjectionSpec {
    ProjectionSpec {
        target,
        path,
        shape,
    }
}

fn queries(config: &LlamaConfig) -> usize {
    config.n_heads * config.head_dim
}

fn keys(config: &LlamaConfig) -> usize {
    config.n_kv_heads * config.head_dim
}

impl Block {
    /// Builds a block: linear layers from `projection`, norms before attention and feed-forward.
    pub(crate) fn build<E>(
        config: &LlamaConfig,
        norms: [RmsNorm; 2],
        mut projection: impl FnMut(&ProjectionSpec) -> Result<Projection, E>,
    ) -> Result<Self, E> {
        let [q, k, v, o, gate, up, down] = &PROJECTIONS;
        let [input_layernorm, post_attention_layernorm] = norms;
        Ok(Self {
            self_attn: Attention {
                q_proj: projection(q)?,
                k_proj: projection(k)?,
                v_proj: projection(v)?,
                o_proj: projection(o)?,
                heads: heads_of(config),
            },
            mlp: FeedForward {
                gate_proj: projection(gate)?,
                up_proj: projection(up)?,
                down_proj: projection(down)?,
            },
            input_layernorm,
            post_attention_layernorm,
        })
    }

    /// The linear layers, in the order of [`PROJECTIONS`].
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

    pub(crate) fn tensors(&self) -> BlockTensors {
        BlockTensors {
            projections: self.projections().map(|it| it.weight.val()),
            norms: [&self.input_layernorm, &self.post_attention_layernorm]
                .map(|norm| norm.weight.val()),
        }
    }

    /// Maps states `[n, d_model]` to the same shape. New keys and values are appended to a store.
    pub(crate) fn forward(
        &self,
        states: Residual,
        pass: &Pass,
        stored: Option<(&mut TensorStore, &Span)>,
    ) -> Residual {
        let (x, normed) = states.normalized(&self.input_layernorm);
        let attended = self.self_attn.forward(normed, pass, stored);
        let (x, normed) = self.post_attention_layernorm.forward_sum(x, attended);
        Residual {
            x,
            added: Some(self.mlp.forward(normed)),
        }
    }

    /// Appends keys and values of states `[n, d_model]` to the store of this block.
    pub(crate) fn append(&self, x: Tensor<2>, pass: &Pass, stored: (&mut TensorStore, &Span)) {
        self.self_attn
            .append(self.input_layernorm.forward(x), pass, stored);
    }
}

/// States between blocks, with the last sum left open: the norm of the next block takes it along.
pub(crate) struct Residual {
    x: Tensor<2>,
    added: Option<Tensor<2>>,
}

impl Residual {
    pub fn new(x: Tensor<2>) -> Self {
        Self { x, added: None }
    }

    /// The states, `[n, d_model]`.
    pub fn sum(self) -> Tensor<2> {
        match self.added {
            Some(added) => self.x + added,
            None => self.x,
        }
    }

    fn normalized(self, norm: &RmsNorm) -> (Tensor<2>, Tensor<2>) {
        match self.added {
            Some(added) => norm.forward_sum(self.x, added),
            None => (self.x.clone(), norm.forward(self.x)),
        }
    }
}

pub(crate) fn heads_of(config: &LlamaConfig) -> Heads {
    Heads {
        query: config.n_heads,
        key_value: config.n_kv_heads,
        dim: config.head_dim,
    }
}
