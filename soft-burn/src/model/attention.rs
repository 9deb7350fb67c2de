//! Attention layer: projections around `ops::packed_attention`.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::model::layers::{Projection, RmsNorm};
use crate::ops::attention::Heads;
use crate::ops::decoder_block::AttentionTensors;
use crate::ops::packed_attention::{Pass, Qkv};
use crate::ops::tensor_store::{Span, TensorStore};

#[derive(Module, Debug)]
pub(crate) struct Attention {
    pub q_proj: Projection,
    pub k_proj: Projection,
    pub v_proj: Projection,
    pub o_proj: Projection,
    /// Norm of the queries of each head, `[head_dim]` (Qwen3).
    pub q_norm: Option<RmsNorm>,
    /// Norm of the keys of each head, `[head_dim]`.
    pub k_norm: Option<RmsNorm>,
    #[module(skip)]
    pub heads: Heads,
    /// Positions a position attends to, itself included; `None` for all up to its own.
    #[module(skip)]
    pub window: Option<usize>,
}

impl Attention {
    /// Maps packed states `[n, d_model]` to the same shape. With the store of this block, new keys
    /// and values are appended to it.
    pub fn forward(
        &self,
        x: Tensor<2>,
        pass: &Pass,
        stored: Option<(&mut TensorStore, &Span)>,
    ) -> Tensor<2> {
        let q = per_head(self.q_proj.forward(x.clone()), self.q_norm.as_ref());
        let (k, v) = self.keys_and_values(x);
        let window = self.window;
        let qkv = Qkv { q, k, v, window };
        self.o_proj.forward(pass.attend(qkv, self.heads, stored))
    }

    /// Appends keys and values of packed states to the store of this block.
    pub fn append(&self, x: Tensor<2>, pass: &Pass, stored: (&mut TensorStore, &Span)) {
        pass.append(self.keys_and_values(x), self.heads, stored);
    }

    fn keys_and_values(&self, x: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let k = per_head(self.k_proj.forward(x.clone()), self.k_norm.as_ref());
        (k, self.v_proj.forward(x))
    }

    /// The layers with the norm before them.
    pub fn tensors(&self, norm: &RmsNorm) -> AttentionTensors {
        let weight = |norm: &Option<RmsNorm>| norm.as_ref().map(|norm| norm.weight.val());
        AttentionTensors {
            norm: norm.weight.val(),
            q: self.q_proj.tensors(),
            k: self.k_proj.tensors(),
            v: self.v_proj.tensors(),
            o: self.o_proj.tensors(),
            q_norm: weight(&self.q_norm),
            k_norm: weight(&self.k_norm),
            window: self.window,
        }
    }
}

/// Normalizes every head of `[n, heads * head_dim]`.
fn per_head(x: Tensor<2>, norm: Option<&RmsNorm>) -> Tensor<2> {
    let Some(norm) = norm else {
        return x;
    };
    let shape @ [n, width] = x.dims();
    let [head_dim] = norm.weight.dims();
    let heads = x.reshape([n * width / head_dim, head_dim]);
    norm.forward(heads).reshape(shape)
}
