//! Attention of packed states over cached keys and values.
//!
//! Each state attends to the keys 0 to its own position of its row, or the last of these within a
//! window, without mask or padding. Query heads that share a key head are computed together.
//! Formula and source: `ops::attention`.

use std::ops::Range;

use pulp::Arch;
use rayon::prelude::*;

use super::exp::exp;
use super::linear::{Rows, dot_products};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub row: usize,
    pub position: usize,
}

/// Keys and values of one row and one key head, `[positions, head_dim]` each.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeadStore {
    pub keys: Vec<f32>,
    pub values: Vec<f32>,
}

pub(crate) struct Attending<'a> {
    pub arch: Arch,
    pub head_dim: usize,
    pub kv_heads: usize,
    /// Positions a position attends to, itself included; `None` for all.
    pub window: Option<usize>,
    pub places: &'a [Place],
    /// Row r and key head h are at `r * kv_heads + h`.
    pub stores: &'a [HeadStore],
}

impl Attending<'_> {
    /// Maps rotated queries `[n, heads * head_dim]` to mixed values of the same shape.
    pub fn run(&self, queries: &[f32], out: &mut [f32]) {
        let width = queries.len() / self.places.len();
        let group = width / self.kv_heads;
        let one = |(index, (queries, out)): (usize, (&[f32], &mut [f32]))| {
            let place = self.places[index / self.kv_heads];
            let store = &self.stores[place.row * self.kv_heads + index % self.kv_heads];
            let keys = place.position + 1;
            let first = self.window.map_or(0, |window| keys.saturating_sub(window));
            self.attend(queries, store, first..keys, out);
        };
        let keys: usize = self.places.iter().map(|place| place.position + 1).sum();
        if keys * width < SMALL {
            let pairs = queries.chunks(group).zip(out.chunks_mut(group));
            pairs.enumerate().for_each(one);
        } else {
            let pairs = queries.par_chunks(group).zip(out.par_chunks_mut(group));
            pairs.enumerate().for_each(one);
        }
    }

    /// Attention of the query heads of one state that share a key head.
    fn attend(&self, queries: &[f32], store: &HeadStore, keys: Range<usize>, out: &mut [f32]) {
        let dim = self.head_dim;
        let queries = Rows {
            values: queries,
            width: dim,
        };
        let mut weights = vec![0.0; queries.count() * keys.len()];
        let mut rows: Vec<_> = weights.chunks_mut(keys.len()).collect();
        let seen = keys.start * dim..keys.end * dim;
        dot_products(self.arch, queries, &store.keys[seen.clone()], &mut rows);
        let scale = 1.0 / (dim as f32).sqrt();
        for (weights, out) in rows.into_iter().zip(out.chunks_mut(dim)) {
            self.arch.dispatch(
                #[inline(always)]
                || {
                    let sum = softmax_numerators(weights, scale);
                    mix(weights, &store.values[seen.clone()], 1.0 / sum, out);
                },
            );
        }
    }
}

/// Number of multiplications below which a single thread is used.
const SMALL: usize = 1 << 16;

/// Replaces scores by e^(scale · (score − highest)) and returns their sum.
#[inline(always)]
fn softmax_numerators(scores: &mut [f32], scale: f32) -> f32 {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for score in scores.iter_mut() {
        *score = exp((*score - highest) * scale);
    }
    let (chunks, rest) = scores.as_chunks::<8>();
    let mut sums = [0.0f32; 8];
    for chunk in chunks {
        for (sum, weight) in sums.iter_mut().zip(chunk) {
            *sum += weight;
        }
    }
    sums.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

/// `out = scale · Σ weight · value`.
#[inline(always)]
fn mix(weights: &[f32], values: &[f32], scale: f32, out: &mut [f32]) {
    out.fill(0.0);
    for (weight, value) in weights.iter().zip(values.chunks(out.len())) {
        for (out, value) in out.iter_mut().zip(value) {
            *out += weight * value;
        }
    }
    for out in out.iter_mut() {
        *out *= scale;
    }
}
