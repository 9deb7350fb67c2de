//! Decoder blocks over packed states and a cache on the host.
//!
//! The formulas are those of `model::{block, attention, layers}` and `ops`. Here a block consists
//! of a few loops over slices that read each weight once.

use pulp::Arch;

use super::attention::{Attending, HeadStore, Place};
use super::linear::{Product, Rows, linear};
use super::norm::{add, gate, rms_norm};
use crate::ops::attention::Heads;

/// The weights of one block, row-major.
pub(crate) struct BlockWeights<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
    pub o: &'a [f32],
    pub gate: &'a [f32],
    pub up: &'a [f32],
    pub down: &'a [f32],
    pub attention_norm: &'a [f32],
    pub feed_forward_norm: &'a [f32],
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
    /// A pass over states at these places, with rotary `frequencies` in radians per position.
    pub fn new(
        heads: Heads,
        d_model: usize,
        eps: f32,
        frequencies: &[f32],
        places: Vec<Place>,
    ) -> Self {
        let angles: Vec<f32> = places
            .iter()
            .flat_map(|place| frequencies.iter().map(|f| place.position as f32 * f))
            .collect();
        Self {
            arch: Arch::new(),
            heads,
            eps,
            d_model,
            places,
            cos: angles.iter().map(|angle| angle.cos()).collect(),
            sin: angles.iter().map(|angle| angle.sin()).collect(),
        }
    }

    /// Runs one block over `x`, `[n, d_model]`, in place. New keys and values are appended to
    /// `stores`, where row r and key head h are at `r * kv_heads + h`.
    pub fn block(&self, weights: &BlockWeights, x: &mut [f32], stores: &mut [HeadStore]) {
        let mut update = vec![0.0; x.len()];
        self.norm(x, weights.attention_norm, &mut update);
        self.attention(weights, &mut update, stores);
        add(self.arch, x, &update);
        self.norm(x, weights.feed_forward_norm, &mut update);
        self.feed_forward(weights, &mut update);
        add(self.arch, x, &update);
    }

    /// Appends keys and values of the states `x` to `stores`, as [`block`](Self::block) does.
    pub fn append_states(&self, weights: &BlockWeights, x: &[f32], stores: &mut [HeadStore]) {
        let mut normed = vec![0.0; x.len()];
        self.norm(x, weights.attention_norm, &mut normed);
        let Heads { key_value, dim, .. } = self.heads;
        let room = || vec![0.0; self.places.len() * key_value * dim];
        let (mut k, mut v) = (room(), room());
        self.linear(
            &normed,
            &mut [
                Product {
                    weight: weights.k,
                    out: &mut k,
                },
                Product {
                    weight: weights.v,
                    out: &mut v,
                },
            ],
        );
        self.append(&mut k, &v, stores);
    }

    /// Replaces normalized states by the update of attention.
    fn attention(&self, weights: &BlockWeights, x: &mut [f32], stores: &mut [HeadStore]) {
        let Heads {
            query,
            key_value,
            dim,
        } = self.heads;
        let room = |heads: usize| vec![0.0; self.places.len() * heads * dim];
        let (mut q, mut k, mut v) = (room(query), room(key_value), room(key_value));
        self.linear(
            x,
            &mut [
                Product {
                    weight: weights.q,
                    out: &mut q,
                },
                Product {
                    weight: weights.k,
                    out: &mut k,
                },
                Product {
                    weight: weights.v,
                    out: &mut v,
                },
            ],
        );
        self.turn(&mut q);
        self.append(&mut k, &v, stores);
        let attending = Attending {
            arch: self.arch,
            head_dim: dim,
            kv_heads: key_value,
            places: &self.places,
            stores,
        };
        let mut mixed = room(query);
        attending.run(&q, &mut mixed);
        self.linear(
            &mixed,
            &mut [Product {
                weight: weights.o,
                out: x,
            }],
        );
    }

    /// Replaces normalized states by the update of the feed-forward layer.
    fn feed_forward(&self, weights: &BlockWeights, x: &mut [f32]) {
        let width = weights.gate.len() / self.d_model;
        let mut inner = vec![0.0; self.places.len() * width];
        let mut up = inner.clone();
        self.linear(
            x,
            &mut [
                Product {
                    weight: weights.gate,
                    out: &mut inner,
                },
                Product {
                    weight: weights.up,
                    out: &mut up,
                },
            ],
        );
        gate(self.arch, &mut inner, &up);
        self.linear(
            &inner,
            &mut [Product {
                weight: weights.down,
                out: x,
            }],
        );
    }

    fn norm(&self, x: &[f32], weight: &[f32], out: &mut [f32]) {
        rms_norm(self.arch, self.rows(x), weight, self.eps, out);
    }

    fn linear(&self, x: &[f32], products: &mut [Product]) {
        linear(self.arch, self.rows(x), products);
    }

    fn rows<'a>(&self, x: &'a [f32]) -> Rows<'a> {
        Rows {
            values: x,
            width: x.len() / self.places.len(),
        }
    }

    /// Rotates the keys, and appends keys and values head by head.
    fn append(&self, k: &mut [f32], v: &[f32], stores: &mut [HeadStore]) {
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
