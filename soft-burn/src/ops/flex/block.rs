//! Decoder blocks over packed states and a cache on the host.
//!
//! The formulas are those of `model::{block, attention, layers}` and `ops`. Here a block consists
//! of a few loops over slices that read each weight once.

use pulp::Arch;

use super::attention::{Attending, HeadStore, Place};
use super::linear::{Product, Rows, linear};
use super::norm::{add, gate, rms_norm};
use crate::ops::attention::Heads;
use crate::ops::rope::{Rotary, cosines_and_sines};

/// The weights of one block, row-major; the block of an exit may lack one of the two.
pub(crate) struct BlockWeights<'a> {
    pub attention: Option<AttentionWeights<'a>>,
    pub feed_forward: Option<FeedForwardWeights<'a>>,
}

#[derive(Clone, Copy)]
pub(crate) struct Linear<'a> {
    pub weight: &'a [f32],
    pub bias: Option<&'a [f32]>,
}

pub(crate) struct AttentionWeights<'a> {
    pub norm: &'a [f32],
    pub q: Linear<'a>,
    pub k: Linear<'a>,
    pub v: Linear<'a>,
    pub o: Linear<'a>,
    pub q_norm: Option<&'a [f32]>,
    pub k_norm: Option<&'a [f32]>,
    /// Positions a position attends to, itself included; `None` for all.
    pub window: Option<usize>,
}

pub(crate) struct FeedForwardWeights<'a> {
    pub norm: &'a [f32],
    pub gate: Linear<'a>,
    pub up: Linear<'a>,
    pub down: Linear<'a>,
}

pub(crate) struct BlockRun {
    arch: Arch,
    heads: Heads,
    eps: f32,
    d_model: usize,
    places: Vec<Place>,
    /// Cosines and sines of every state's rotary angles, `[n, head_dim / 2]` each.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl BlockRun {
    /// A pass over states at these places.
    pub fn new(
        heads: Heads,
        d_model: usize,
        eps: f32,
        rotary: &Rotary,
        places: Vec<Place>,
    ) -> Self {
        let (cos, sin) = cosines_and_sines(rotary, places.iter().map(|place| place.position));
        Self {
            arch: Arch::new(),
            heads,
            eps,
            d_model,
            places,
            cos,
            sin,
        }
    }

    /// Runs one block over `x`, `[n, d_model]`, in place. New keys and values are appended to
    /// `stores`, where row r and key head h are at `r * kv_heads + h`.
    pub fn block(&self, weights: &BlockWeights, x: &mut [f32], stores: &mut [HeadStore]) {
        let mut update = vec![0.0; x.len()];
        if let Some(attention) = &weights.attention {
            self.norm(x, attention.norm, &mut update);
            self.attention(attention, &mut update, stores);
            add(self.arch, x, &update);
        }
        if let Some(feed_forward) = &weights.feed_forward {
            self.norm(x, feed_forward.norm, &mut update);
            self.feed_forward(feed_forward, &mut update);
            add(self.arch, x, &update);
        }
    }

    /// Appends keys and values of the states `x` to `stores`, as [`block`](Self::block) does.
    pub fn append_states(&self, weights: &AttentionWeights, x: &[f32], stores: &mut [HeadStore]) {
        let mut normed = vec![0.0; x.len()];
        self.norm(x, weights.norm, &mut normed);
        let (mut k, mut v) = (
            self.room(self.heads.key_value),
            self.room(self.heads.key_value),
        );
        self.linear(&normed, &mut [(weights.k, &mut k), (weights.v, &mut v)]);
        self.append(weights.k_norm, &mut k, &v, stores);
    }

    /// Replaces normalized states by the update of attention.
    fn attention(&self, weights: &AttentionWeights, x: &mut [f32], stores: &mut [HeadStore]) {
        let Heads {
            query,
            key_value,
            dim,
            ..
        } = self.heads;
        let mut q = self.room(query);
        let (mut k, mut v) = (self.room(key_value), self.room(key_value));
        self.linear(
            x,
            &mut [
                (weights.q, &mut q),
                (weights.k, &mut k),
                (weights.v, &mut v),
            ],
        );
        self.norm_heads(weights.q_norm, &mut q);
        self.turn(&mut q);
        self.append(weights.k_norm, &mut k, &v, stores);
        let attending = Attending {
            arch: self.arch,
            head_dim: dim,
            kv_heads: key_value,
            window: weights.window,
            places: &self.places,
            stores,
        };
        let mut mixed = self.room(query);
        attending.run(&q, &mut mixed);
        self.linear(&mixed, &mut [(weights.o, x)]);
    }

    /// Replaces normalized states by the update of the feed-forward layer.
    fn feed_forward(&self, weights: &FeedForwardWeights, x: &mut [f32]) {
        let width = weights.gate.weight.len() / self.d_model;
        let mut inner = vec![0.0; self.places.len() * width];
        let mut up = inner.clone();
        self.linear(x, &mut [(weights.gate, &mut inner), (weights.up, &mut up)]);
        gate(self.arch, &mut inner, &up);
        self.linear(&inner, &mut [(weights.down, x)]);
    }

    fn room(&self, heads: usize) -> Vec<f32> {
        vec![0.0; self.places.len() * heads * self.heads.dim]
    }

    fn norm(&self, x: &[f32], weight: &[f32], out: &mut [f32]) {
        rms_norm(self.arch, self.rows(x), weight, self.eps, out);
    }

    fn linear(&self, x: &[f32], layers: &mut [(Linear, &mut [f32])]) {
        let mut products: Vec<_> = layers
            .iter_mut()
            .map(|(layer, out)| Product {
                weight: layer.weight,
                out,
            })
            .collect();
        linear(self.arch, self.rows(x), &mut products);
        for (layer, out) in layers {
            if let Some(bias) = layer.bias {
                let states = out.chunks_mut(bias.len());
                states.for_each(|state| add(self.arch, state, bias));
            }
        }
    }

    /// Normalizes every head.
    fn norm_heads(&self, weight: Option<&[f32]>, x: &mut [f32]) {
        let Some(weight) = weight else {
            return;
        };
        let heads = x.to_vec();
        let heads = Rows {
            values: &heads,
            width: weight.len(),
        };
        rms_norm(self.arch, heads, weight, self.eps, x);
    }

    fn rows<'a>(&self, x: &'a [f32]) -> Rows<'a> {
        Rows {
            values: x,
            width: x.len() / self.places.len(),
        }
    }

    /// Normalizes and rotates the keys, and appends keys and values head by head.
    fn append(&self, k_norm: Option<&[f32]>, k: &mut [f32], v: &[f32], stores: &mut [HeadStore]) {
        self.norm_heads(k_norm, k);
        self.turn(k);
        let Heads { key_value, dim, .. } = self.heads;
        let heads = k.chunks(dim).zip(v.chunks(dim));
        for (index, (key, value)) in heads.enumerate() {
            let row = self.places[index / key_value].row;
            let store = &mut stores[row * key_value + index % key_value];
            store.keys.extend_from_slice(key);
            store.values.extend_from_slice(value);
        }
    }

    /// Rotates the heads of every state by its rotary angles.
    fn turn(&self, x: &mut [f32]) {
        let half = self.heads.dim / 2;
        let width = x.len() / self.places.len();
        let angles = self.cos.chunks(half).zip(self.sin.chunks(half));
        for (state, (cos, sin)) in x.chunks_mut(width).zip(angles) {
            for head in state.chunks_mut(2 * half) {
                let (first, second) = head.split_at_mut(half);
                let pairs = first.iter_mut().zip(second);
                for ((a, b), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        }
    }
}
