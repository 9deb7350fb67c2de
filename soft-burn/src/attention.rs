//! Causal grouped-query attention.
//!
//! Source: Ainslie et al., GQA (arXiv 2305.13245); with as many key heads as query heads it is
//! multi-head attention. Keys and values are never repeated: the query heads that share a key
//! head are computed as further rows of one product.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData, activation};

use crate::cache::{Cache, Span};
use crate::layers::Projection;
use crate::rope::Rotation;

/// The four projections of an attention layer and its head counts.
#[derive(Module, Debug)]
pub(crate) struct Attention {
    pub q_proj: Projection,
    pub k_proj: Projection,
    pub v_proj: Projection,
    pub o_proj: Projection,
    #[module(skip)]
    pub heads: Heads,
}

/// How an attention layer splits its width.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub query: usize,
    pub key_value: usize,
    pub dim: usize,
}

/// What the blocks of one forward pass share: computed once, used by every layer.
pub(crate) struct Pass {
    /// Number of rows of the batch.
    pub rows: usize,
    /// Positions computed in this pass.
    pub seq: usize,
    /// Rotary angles of those positions.
    pub rotation: Rotation,
    /// Which keys each position sees; none needed when it sees all.
    pub mask: Option<CausalMask>,
}

impl Attention {
    /// `[rows * seq, d_model]` to the same. `span` says where in the cache of `block` the new
    /// keys and values go.
    pub fn forward(
        &self,
        x: Tensor<2>,
        pass: &Pass,
        cached: Option<(&mut Cache, usize, &Span)>,
    ) -> Tensor<2> {
        let Heads {
            query,
            key_value,
            dim,
        } = self.heads;
        let (rows, seq) = (pass.rows, pass.seq);
        let split = |x: Tensor<2>, heads| x.reshape([rows, seq, heads, dim]).swap_dims(1, 2);
        let q = pass
            .rotation
            .apply(split(self.q_proj.forward(x.clone()), query));
        let k = pass
            .rotation
            .apply(split(self.k_proj.forward(x.clone()), key_value));
        let v = split(self.v_proj.forward(x), key_value);
        let (k, v) = match cached {
            Some((cache, block, span)) => cache.append(block, span, k, v),
            None => (k, v),
        };
        let keys = k.dims()[2];

        let shared = query / key_value;
        let q = q.mul_scalar(1.0 / (dim as f64).sqrt());
        let q = q.reshape([rows, key_value, shared * seq, dim]);
        let mut scores = q
            .matmul(k.swap_dims(2, 3))
            .reshape([rows, query, seq, keys]);
        if let Some(mask) = &pass.mask {
            scores = scores + mask.0.clone();
        }
        let weights = activation::softmax(scores, 3).reshape([rows, key_value, shared * seq, keys]);
        let mixed = weights.matmul(v).reshape([rows, query, seq, dim]);
        self.o_proj
            .forward(mixed.swap_dims(1, 2).reshape([rows * seq, query * dim]))
    }
}

/// Added to attention scores: 0 where a key is seen, -∞ where not; `[rows or 1, 1, seq, keys]`.
#[derive(Clone, Debug)]
pub(crate) struct CausalMask(Tensor<4>);

impl CausalMask {
    /// Position i of a row that starts at s sees keys 0 to s + i. One start serves all rows.
    /// `None` when every position sees every key.
    pub fn new(starts: &[usize], seq: usize, keys: usize, device: &Device) -> Option<Self> {
        if seq == 1 && starts.iter().all(|start| start + 1 == keys) {
            return None;
        }
        let mut values = Vec::with_capacity(starts.len() * seq * keys);
        for start in starts {
            for position in 0..seq {
                let seen = |key| {
                    if key <= start + position {
                        0.0
                    } else {
                        f32::NEG_INFINITY
                    }
                };
                values.extend((0..keys).map(seen));
            }
        }
        let data = TensorData::new(values, [starts.len(), 1, seq, keys]);
        Some(Self(Tensor::from_data(data, device)))
    }
}
