//! A decoder block.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::model::architecture::Architecture;
use crate::model::attention::Attention;
use crate::model::config::LlamaConfig;
use crate::model::layers::{FeedForward, Projection, RmsNorm};
use crate::ops::attention::Heads;
use crate::ops::decoder_block::BlockTensors;
use crate::ops::packed_attention::Pass;
use crate::ops::tensor_store::{Span, TensorStore};

/// One decoder block: x + attention(norm x), then x + feed-forward(norm x). The block of an exit
/// may lack one of the two, with its norm.
#[derive(Module, Debug)]
pub(crate) struct Block {
    pub self_attn: Option<Attention>,
    pub mlp: Option<FeedForward>,
    pub input_layernorm: Option<RmsNorm>,
    pub post_attention_layernorm: Option<RmsNorm>,
}

pub(crate) struct ProjectionSpec {
    /// Its name in PEFT's `target_modules`.
    pub target: &'static str,
    /// Its path within the block.
    pub path: &'static str,
    /// `[d_out, d_in]`.
    pub shape: fn(&LlamaConfig) -> [usize; 2],
    pub has_bias: fn(&Architecture) -> bool,
}

/// The linear layers of a block, as initialized, loaded, saved and adapted.
pub(crate) const PROJECTIONS: [ProjectionSpec; 7] = [
    ProjectionSpec {
        target: "q_proj",
        path: "self_attn.q_proj",
        shape: |it| [it.n_heads * it.head_dim, it.d_model],
        has_bias: |it| it.qkv_bias,
    },
    ProjectionSpec {
        target: "k_proj",
        path: "self_attn.k_proj",
        shape: |it| [it.n_kv_heads * it.head_dim, it.d_model],
        has_bias: |it| it.qkv_bias,
    },
    ProjectionSpec {
        target: "v_proj",
        path: "self_attn.v_proj",
        shape: |it| [it.n_kv_heads * it.head_dim, it.d_model],
        has_bias: |it| it.qkv_bias,
    },
    ProjectionSpec {
        target: "o_proj",
        path: "self_attn.o_proj",
        shape: |it| [it.d_model, it.n_heads * it.head_dim],
        has_bias: |it| it.output_bias,
    },
    ProjectionSpec {
        target: "gate_proj",
        path: "mlp.gate_proj",
        shape: |it| [it.d_feed_forward, it.d_model],
        has_bias: |it| it.mlp_bias,
    },
    ProjectionSpec {
        target: "up_proj",
        path: "mlp.up_proj",
        shape: |it| [it.d_feed_forward, it.d_model],
        has_bias: |it| it.mlp_bias,
    },
    ProjectionSpec {
        target: "down_proj",
        path: "mlp.down_proj",
        shape: |it| [it.d_model, it.d_feed_forward],
        has_bias: |it| it.mlp_bias,
    },
];

/// The halves of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Halves {
    Both,
    Attention,
    FeedForward,
}

/// Where the layers of a block come from.
pub(crate) trait BlockSource {
    type Error;
    fn projection(&mut self, spec: &ProjectionSpec) -> Result<Projection, Self::Error>;
    /// The norm at this path within the block, of this width.
    fn norm(&mut self, path: &str, width: usize) -> Result<RmsNorm, Self::Error>;
}

impl Block {
    /// Builds the block of this index.
    pub(crate) fn build<S: BlockSource>(
        config: &LlamaConfig,
        (index, halves): (usize, Halves),
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let mut block = Self {
            self_attn: None,
            mlp: None,
            input_layernorm: None,
            post_attention_layernorm: None,
        };
        let [q, k, v, o, gate, up, down] = &PROJECTIONS;
        if halves != Halves::FeedForward {
            let d_model = config.d_model;
            block.input_layernorm = Some(source.norm("input_layernorm", d_model)?);
            let mut head_norm = |path| match config.architecture.qk_norm {
                true => source.norm(path, config.head_dim).map(Some),
                false => Ok(None),
            };
            let q_norm = head_norm("self_attn.q_norm")?;
            let k_norm = head_norm("self_attn.k_norm")?;
            block.self_attn = Some(Attention {
                q_norm,
                k_norm,
                q_proj: source.projection(q)?,
                k_proj: source.projection(k)?,
                v_proj: source.projection(v)?,
                o_proj: source.projection(o)?,
                heads: heads_of(config),
                window: config.architecture.window_of(index),
            });
        }
        if halves != Halves::Attention {
            let norm = source.norm("post_attention_layernorm", config.d_model)?;
            block.post_attention_layernorm = Some(norm);
            block.mlp = Some(FeedForward {
                gate_proj: source.projection(gate)?,
                up_proj: source.projection(up)?,
                down_proj: source.projection(down)?,
            });
        }
        Ok(block)
    }

    /// The halves that the block has.
    pub(crate) fn halves(&self) -> Halves {
        match (&self.self_attn, &self.mlp) {
            (Some(_), None) => Halves::Attention,
            (None, _) => Halves::FeedForward,
            _ => Halves::Both,
        }
    }

    /// The linear layers that the block has, in the order of [`PROJECTIONS`].
    pub(crate) fn projections(
        &self,
    ) -> impl Iterator<Item = (&'static ProjectionSpec, &Projection)> {
        let attention = self.self_attn.iter().flat_map(|it| {
            let Attention {
                q_proj,
                k_proj,
                v_proj,
                o_proj,
                ..
            } = it;
            [q_proj, k_proj, v_proj, o_proj]
        });
        let mlp = self.mlp.iter();
        let mlp = mlp.flat_map(|it| [&it.gate_proj, &it.up_proj, &it.down_proj]);
        let (of_attention, of_mlp) = PROJECTIONS.split_at(4);
        of_attention
            .iter()
            .zip(attention)
            .chain(of_mlp.iter().zip(mlp))
    }

    pub(crate) fn tensors(&self) -> BlockTensors {
        let attention = self.attention();
        let feed_forward = self.feed_forward();
        BlockTensors {
            attention: attention.map(|(norm, layer)| layer.tensors(norm)),
            feed_forward: feed_forward.map(|(norm, layer)| layer.tensors(norm)),
        }
    }

    fn attention(&self) -> Option<(&RmsNorm, &Attention)> {
        self.input_layernorm.as_ref().zip(self.self_attn.as_ref())
    }

    fn feed_forward(&self) -> Option<(&RmsNorm, &FeedForward)> {
        self.post_attention_layernorm
            .as_ref()
            .zip(self.mlp.as_ref())
    }

    /// Maps states `[n, d_model]` to the same shape. New keys and values are appended to a store.
    pub(crate) fn forward(
        &self,
        states: Residual,
        pass: &Pass,
        stored: Option<(&mut TensorStore, &Span)>,
    ) -> Residual {
        let mut states = states;
        if let Some((norm, attention)) = self.attention() {
            states = states.update(norm, |normed| attention.forward(normed, pass, stored));
        }
        if let Some((norm, mlp)) = self.feed_forward() {
            states = states.update(norm, |normed| mlp.forward(normed));
        }
        states
    }

    /// Appends keys and values of states `[n, d_model]` to the store of this block.
    pub(crate) fn append(&self, x: Tensor<2>, pass: &Pass, stored: (&mut TensorStore, &Span)) {
        if let Some((norm, attention)) = self.attention() {
            attention.append(norm.forward(x), pass, stored);
        }
    }
}

/// States between layers, with the last sum left open: the norm of the next layer takes it along.
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

    /// `x + layer(norm x)`.
    fn update(self, norm: &RmsNorm, layer: impl FnOnce(Tensor<2>) -> Tensor<2>) -> Self {
        let (x, normed) = match self.added {
            Some(added) => norm.forward_sum(self.x, added),
            None => (self.x.clone(), norm.forward(self.x)),
        };
        Self {
            x,
            added: Some(layer(normed)),
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
