//! Attention layer: projections around `ops::packed_attention`.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::model::layers::Projection;
use crate::ops::attention::Heads;
use crate::ops::packed_attention::{Pass, Qkv};
use crate::ops::tensor_store::{Span, TensorStore};

#[derive(Module, Debug)]
pub(crate) struct Attention {
    pub q_proj: Projection,
    pub k_proj: Projection,
    pub v_proj: Projection,
    pub o_proj: Projection,
    #[module(skip)]
    pub heads: Heads,
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
        let qkv = Qkv {
            q: self.q_proj.forward(x.clone()),
            k: self.k_proj.forward(x.clone()),
            v: self.v_proj.forward(x),
        };
        self.o_proj.forward(pass.attend(qkv, self.heads, stored))
    }

    /// Appends keys and values of packed states to the store of this block.
    pub fn append(&self, x: Tensor<2>, pass: &Pass, stored: (&mut TensorStore, &Span)) {
        let (k, v) = (self.k_proj.forward(x.clone()), self.v_proj.forward(x));
        pass.append((k, v), self.heads, stored);
    }
}
