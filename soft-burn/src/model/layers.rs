//! The layers of a decoder block.
//!
//! Field names and weight layouts follow transformers' `modeling_llama`, so that a module's path is
//! the name of its tensor. Layers hold only weights; positions, masks and caches are passed in.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::ops::decoder_block::{FeedForwardTensors, LinearTensors};
use crate::ops::linear::project;
use crate::ops::rms_norm::{add_and_normalize, rms_norm};
use crate::ops::swiglu::swiglu;

/// Token embedding: one row of `weight` per token, `[vocab, d_model]`.
#[derive(Module, Debug)]
pub(crate) struct Embedding {
    pub weight: Param<Tensor<2>>,
}

/// A linear layer; `weight` is `[d_out, d_in]`, as in PyTorch.
#[derive(Module, Debug)]
pub(crate) struct Projection {
    pub weight: Param<Tensor<2>>,
    /// `[d_out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Projection {
    pub fn without_bias(weight: Param<Tensor<2>>) -> Self {
        Self { weight, bias: None }
    }

    /// `x · weightᵀ + bias`: `[rows, d_in]` to `[rows, d_out]`. An adapter is applied factor by
    /// factor.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let out = self.product(x);
        match &self.bias {
            Some(bias) => out + bias.val().unsqueeze(),
            None => out,
        }
    }

    fn product(&self, x: Tensor<2>) -> Tensor<2> {
        let Some(adapter) = self.weight.adapter() else {
            return project(x, self.weight.val());
        };
        let low = project(x.clone(), adapter.b.val());
        let added = project(low, adapter.a.val()).mul_scalar(adapter.scale);
        project(x, self.weight.base()) + added
    }

    pub fn tensors(&self) -> LinearTensors {
        LinearTensors {
            weight: self.weight.val(),
            bias: self.bias.as_ref().map(Param::val),
        }
    }
}

/// Root-mean-square norm: x / √(mean x² + ε) · weight.
#[derive(Module, Debug)]
pub(crate) struct RmsNorm {
    pub weight: Param<Tensor<1>>,
    #[module(skip)]
    pub eps: f64,
}

impl RmsNorm {
    /// Normalizes every row of `[rows, d_model]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        rms_norm(x, self.weight.val(), self.eps)
    }

    /// `x + added`, and its norm.
    pub fn forward_sum(&self, x: Tensor<2>, added: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        add_and_normalize(x, added, self.weight.val(), self.eps)
    }
}

/// SwiGLU feed-forward (Shazeer, arXiv 2002.05202): down(silu(gate x) · up x).
#[derive(Module, Debug)]
pub(crate) struct FeedForward {
    pub gate_proj: Projection,
    pub up_proj: Projection,
    pub down_proj: Projection,
}

impl FeedForward {
    /// The layers with the norm before them.
    pub fn tensors(&self, norm: &RmsNorm) -> FeedForwardTensors {
        FeedForwardTensors {
            norm: norm.weight.val(),
            gate: self.gate_proj.tensors(),
            up: self.up_proj.tensors(),
            down: self.down_proj.tensors(),
        }
    }

    /// Maps `[rows, d_model]` to the same shape.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let gate = self.gate_proj.forward(x.clone());
        self.down_proj
            .forward(swiglu(gate, self.up_proj.forward(x)))
    }
}
