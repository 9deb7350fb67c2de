//! Causal grouped-query attention.
//!
//! Source: Ainslie et al., GQA (arXiv 2305.13245); with as many key heads as query heads it is
//! multi-head attention. Keys and values are not repeated: the query heads that share a key head
//! are additional rows of one matrix product.

use burn::tensor::{Device, Tensor, activation};

use crate::dtype::in_f32;
use crate::ops::transfers::upload;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub query: usize,
    pub key_value: usize,
    pub dim: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct CausalMask {
    /// Added to attention scores: 0 for visible keys, -∞ for others; `[rows or 1, 1, seq, keys]`.
    added: Tensor<4>,
    /// Whether all rows start at position 0, so that position i attends to keys 0 to i.
    #[cfg(any(feature = "flex", feature = "tch"))]
    from_the_start: bool,
}

impl CausalMask {
    /// Position i of a row that starts at s attends to keys 0 to s + i, or the last of these within
    /// `window`. A single start applies to all rows. `None` when every position attends to every
    /// key.
    pub fn new(
        starts: &[usize],
        (seq, keys): (usize, usize),
        window: Option<usize>,
        device: &Device,
    ) -> Option<Self> {
        let window = window.filter(|&window| window < keys);
        if seq == 1 && window.is_none() && starts.iter().all(|start| start + 1 == keys) {
            return None;
        }
        let mut values = Vec::with_capacity(starts.len() * seq * keys);
        for start in starts {
            for position in 0..seq {
                let own = start + position;
                let first = window.map_or(0, |window| (own + 1).saturating_sub(window));
                let seen = |key| {
                    if (first..=own).contains(&key) {
                        0.0
                    } else {
                        f32::NEG_INFINITY
                    }
                };
                values.extend((0..keys).map(seen));
            }
        }
        Some(Self {
            added: upload(values, [starts.len(), 1, seq, keys], device),
            #[cfg(any(feature = "flex", feature = "tch"))]
            from_the_start: window.is_none() && starts.iter().all(|&start| start == 0),
        })
    }
}

#[cfg(feature = "tch")]
impl CausalMask {
    fn seen(mask: Option<&Self>) -> crate::ops::torch::Seen<'_> {
        use crate::ops::torch::Seen;
        match mask {
            None => Seen::All,
            Some(mask) if mask.from_the_start => Seen::Causal,
            Some(mask) => Seen::Masked(&mask.added),
        }
    }
}

/// Attention of queries `[rows, n_heads, seq, head_dim]`, as in the result, over the keys and
/// values `[rows, n_kv_heads, keys, head_dim]`. Without a mask all keys are visible.
pub(crate) fn attend(
    q: Tensor<4>,
    (k, v): (Tensor<4>, Tensor<4>),
    mask: Option<&CausalMask>,
) -> Tensor<4> {
    #[cfg(feature = "tch")]
    if let Some(mixed) = crate::ops::torch::attention(&q, (&k, &v), CausalMask::seen(mask)) {
        return mixed;
    }
    let [rows, heads, seq, dim] = q.dims();
    let [_, key_value, keys, _] = k.dims();
    let shared = heads / key_value;
    let q = q.reshape([rows, key_value, shared * seq, dim]);
    let scores = q.matmul(k.swap_dims(2, 3));
    let scores = scores.reshape([rows, heads, seq, keys]);
    let scale = 1.0 / (dim as f64).sqrt();
    let weights = in_f32(scores, |scores| match mask {
        Some(mask) => masked_softmax(scores, scale, mask),
        None => activation::softmax(scores.mul_scalar(scale), 3),
    });
    let weights = weights.reshape([rows, key_value, shared * seq, keys]);
    weights.matmul(v).reshape([rows, heads, seq, dim])
}

/// `softmax(scale · scores)` over the keys each position attends to, `[rows, heads, seq, keys]`.
fn masked_softmax(scores: Tensor<4>, scale: f64, mask: &CausalMask) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if mask.from_the_start
        && let Some(weights) = crate::ops::flex::causal_softmax(&scores, scale as f32)
    {
        return weights;
    }
    activation::softmax(scores.mul_scalar(scale) + mask.added.clone(), 3)
}
