//! Causal grouped-query attention of packed states, with a key-value cache.
//!
//! Each row is computed separately, which is simple but slow. A batched kernel would be the first
//! optimization.

use std::ops::Range;

use crate::folder::Config;
use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::{Linear, Module, VarBuilder, linear_no_bias, ops, rotary_emb};

/// Keys and values of one block and row; `[n_kv_heads, positions, head_dim]` each.
#[derive(Clone)]
pub struct Held {
    keys: Tensor,
    values: Tensor,
}

impl Held {
    /// Empty keys and values.
    pub fn nothing(n_kv_heads: usize, head_dim: usize) -> Result<Self> {
        let none = Tensor::zeros((n_kv_heads, 0, head_dim), DType::F32, &Device::Cpu)?;
        Ok(Self {
            keys: none.clone(),
            values: none,
        })
    }

    /// Replaces what is held from position `start` on.
    fn append(&mut self, start: usize, keys: &Tensor, values: &Tensor) -> Result<()> {
        let joined = |old: &Tensor, new| Tensor::cat(&[&old.narrow(1, 0, start)?, new], 1);
        (self.keys, self.values) = (joined(&self.keys, keys)?, joined(&self.values, values)?);
        Ok(())
    }
}

/// What all blocks of one pass share: rows of the packed states, rotary angles, masks.
pub struct Pass {
    pieces: Vec<Piece>,
    /// `[n, head_dim / 2]`.
    cos: Tensor,
    sin: Tensor,
}

/// The packed states of one row.
struct Piece {
    row: usize,
    /// Position of the first state.
    start: usize,
    states: Range<usize>,
    /// Added to the scores: 0 for keys up to the position of the state, -∞ for later ones;
    /// `[states, keys]`.
    mask: Tensor,
}

impl Pass {
    pub fn new(starts: &[usize], counts: &[usize], frequencies: &[f32]) -> Result<Self> {
        let (mut pieces, mut angles, mut first) = (Vec::new(), Vec::new(), 0);
        for (row, (&start, &count)) in starts.iter().zip(counts).enumerate() {
            if count == 0 {
                continue;
            }
            let end = start + count;
            let added = |position, key| {
                if key <= position {
                    0.0
                } else {
                    f32::NEG_INFINITY
                }
            };
            let mask = (start..end).flat_map(|at| (0..end).map(move |key| added(at, key)));
            pieces.push(Piece {
                row,
                start,
                states: first..first + count,
                mask: Tensor::from_iter(mask, &Device::Cpu)?.reshape((count, end))?,
            });
            angles
                .extend((start..end).flat_map(|at| frequencies.iter().map(move |f| at as f32 * f)));
            first += count;
        }
        let angles = Tensor::from_vec(angles, (first, frequencies.len()), &Device::Cpu)?;
        Ok(Self {
            pieces,
            cos: angles.cos()?,
            sin: angles.sin()?,
        })
    }

    /// Applies the rotary embedding to `[heads, n, head_dim]`. `rope_slow` is differentiable,
    /// `rope` is not.
    fn turn(&self, x: &Tensor) -> Result<Tensor> {
        rotary_emb::rope_slow(&x.unsqueeze(0)?, &self.cos, &self.sin)?.squeeze(0)
    }
}

#[derive(Clone)]
pub struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    head_dim: usize,
}

impl Attention {
    pub fn new(config: &Config, weights: VarBuilder) -> Result<Self> {
        let (width, head_dim) = (config.hidden_size, config.head_dim());
        let (query, shared) = (
            config.num_attention_heads * head_dim,
            config.n_kv_heads() * head_dim,
        );
        Ok(Self {
            q_proj: linear_no_bias(width, query, weights.pp("q_proj"))?,
            k_proj: linear_no_bias(width, shared, weights.pp("k_proj"))?,
            v_proj: linear_no_bias(width, shared, weights.pp("v_proj"))?,
            o_proj: linear_no_bias(query, width, weights.pp("o_proj"))?,
            head_dim,
        })
    }

    /// Attention of states `[n, d_model]` to themselves and to what `held` has of their rows.
    pub fn forward(&self, x: &Tensor, pass: &Pass, held: &mut [Held]) -> Result<Tensor> {
        self.remember(x, pass, held)?;
        let q = pass.turn(&self.split(&self.q_proj.forward(x)?)?)?;
        let attend = |piece: &Piece| {
            let q = q.narrow(1, piece.states.start, piece.states.len())?;
            attend(&q, &held[piece.row], &piece.mask)
        };
        let rows = pass.pieces.iter().map(attend).collect::<Result<Vec<_>>>()?;
        self.o_proj.forward(&Tensor::cat(&rows, 0)?)
    }

    /// Appends the keys and values of states `[n, d_model]` to those of their rows.
    pub fn remember(&self, x: &Tensor, pass: &Pass, held: &mut [Held]) -> Result<()> {
        let keys = pass.turn(&self.split(&self.k_proj.forward(x)?)?)?;
        let values = self.split(&self.v_proj.forward(x)?)?;
        pass.pieces.iter().try_for_each(|piece| {
            let of_row = |x: &Tensor| x.narrow(1, piece.states.start, piece.states.len());
            held[piece.row].append(piece.start, &of_row(&keys)?, &of_row(&values)?)
        })
    }

    /// `[n, heads * head_dim]` to `[heads, n, head_dim]`.
    fn split(&self, x: &Tensor) -> Result<Tensor> {
        x.reshape((x.dim(0)?, (), self.head_dim))?
            .transpose(0, 1)?
            .contiguous()
    }
}

/// Attention of the queries of one row, `[n_heads, n, head_dim]`; `[n, n_heads * head_dim]`. Query
/// heads that share a key head are stacked as rows of one matrix product.
fn attend(q: &Tensor, held: &Held, mask: &Tensor) -> Result<Tensor> {
    let (heads, n, dim) = q.dims3()?;
    let grouped = q.contiguous()?.reshape((held.keys.dim(0)?, (), dim))?;
    let scores = (grouped.matmul(&held.keys.t()?)? / (dim as f64).sqrt())?;
    let scores = scores.reshape((heads, n, ()))?.broadcast_add(mask)?;
    // `softmax_last_dim` would be faster, but is not differentiable.
    let weights =
        ops::softmax(&scores, D::Minus1)?.reshape((held.keys.dim(0)?, (), mask.dim(1)?))?;
    let mixed = weights.matmul(&held.values)?.reshape((heads, n, dim))?;
    mixed.transpose(0, 1)?.reshape((n, heads * dim))
}
