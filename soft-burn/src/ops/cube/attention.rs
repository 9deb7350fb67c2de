//! Causal attention that holds scores of one tile at a time.
//!
//! Source: Dao et al., FlashAttention (arXiv 2205.14135) and FlashAttention-2 (arXiv 2307.08691).
//! A cube computes a tile of queries of one head and goes through the tiles of keys they attend to,
//! with a running maximum and sum. Query heads that share a key head read it in place.

use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::ragged::Ragged;
use super::tensor::{empty, empty_like, storage};
use super::tile::{Shape, add_products, dots, lines, load, row_of_pass, scores, store, zeros};
use crate::ops::attention::Heads;

/// Keys and values that a pass attends to.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    pub k: CubeTensor,
    pub v: CubeTensor,
    /// Distance between the first keys of two rows; `None` when rows are packed like states.
    pub row_stride: Option<usize>,
    /// Distance between the first keys of two heads.
    pub head_stride: usize,
    /// Distance between two keys of a head.
    pub key_stride: usize,
}

impl Keys {
    /// Those of the pass itself, `[states, n_kv_heads · head_dim]`.
    pub fn of_the_pass(k: CubeTensor, v: CubeTensor, heads: Heads) -> Self {
        Self {
            k,
            v,
            row_stride: None,
            head_stride: heads.dim,
            key_stride: heads.key_value * heads.dim,
        }
    }
}

/// The result of attention, and what its gradient needs.
#[derive(Clone, Debug)]
pub(super) struct Attended {
    pub q: CubeTensor,
    pub keys: Keys,
    /// `[states, n_heads · head_dim]`.
    pub out: CubeTensor,
    /// Logarithm of the sum of the exponentials of the scores, `[states, n_heads]`.
    pub log_sums: CubeTensor,
    pub window: usize,
}

/// Attention of rotated queries `[states, n_heads · head_dim]` to their own positions and the
/// `window - 1` before.
pub(super) fn attend(
    rows: &Ragged,
    q: &CubeTensor,
    keys: Keys,
    heads: Heads,
    window: usize,
) -> Attended {
    let shape = Shape::new(heads, 2, &q.client);
    let states = q.meta.shape()[0];
    let (out, log_sums) = (empty_like(q), empty([states, heads.query], DType::F32, q));
    let tiles = rows.longest.div_ceil(shape.tile);
    flash::launch(
        &q.client,
        CubeCount::Static(tiles as u32, heads.query as u32, rows.rows as u32),
        shape.cube(),
        q.clone().into_buffer_arg(),
        keys.k.clone().into_buffer_arg(),
        keys.v.clone().into_buffer_arg(),
        rows.layout.clone().into_buffer_arg(),
        out.clone().into_buffer_arg(),
        log_sums.clone().into_buffer_arg(),
        1.0 / (heads.dim as f32).sqrt(),
        window as u32,
        keys.row_stride.unwrap_or(0) as u32,
        keys.head_stride as u32,
        keys.key_stride as u32,
        keys.row_stride.is_some(),
        shape,
        storage(q),
        storage(&rows.layout),
    );
    Attended {
        q: q.clone(),
        keys,
        out,
        log_sums,
        window,
    }
}

/// A score of a key that a query does not attend to: its exponential is 0 beside any other. A query
/// whose window begins behind a tile has only such scores there; its sums are shrunk to 0 when it
/// comes to a key of its own.
pub(super) const UNSEEN: f32 = -1e30;

/// The first position that a position attends to.
#[cube]
pub(super) fn first_seen(position: usize, window: usize) -> usize {
    let mut first = 0usize;
    if position + 1 > window {
        first = position + 1 - window;
    }
    first
}

#[cube(launch)]
fn flash<F: Float, I: Int>(
    q: &[F],
    k: &[F],
    v: &[F],
    layout: &[I],
    out: &mut [F],
    log_sums: &mut [f32],
    scale: f32,
    window: u32,
    row_stride: u32,
    head_stride: u32,
    key_stride: u32,
    #[comptime] stored: bool,
    #[comptime] shape: Shape,
    #[define(F)] _f: ElemType,
    #[define(I)] _i: ElemType,
) {
    let Shape {
        q_heads,
        k_heads,
        dim,
        tile,
        side,
    } = shape;
    let per_unit = comptime!(tile / side);
    let row = row_of_pass::<I>(layout);
    let from = CUBE_POS_X as usize * tile;
    if from >= row.count {
        terminate!();
    }
    let head = CUBE_POS_Y as usize;
    let (unit_x, unit_y) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let (window, key_stride) = (window as usize, key_stride as usize);
    let mut first_key = head / comptime!(q_heads / k_heads) * head_stride as usize;
    if stored {
        first_key += CUBE_POS_Z as usize * row_stride as usize;
    } else {
        first_key += row.first * key_stride;
    }
    let first_query = ((row.first + from) * q_heads + head) * dim;
    let queries_left = row.count - from;

    let mut queries = lines(shape);
    let mut held = lines(shape);
    let mut shares = scores(shape);
    let mut mixed = zeros(shape);
    let mut maxima = Array::<f32>::new(per_unit);
    let mut sums = Array::<f32>::new(per_unit);
    #[unroll]
    for i in 0..per_unit {
        maxima[i] = f32::new(UNSEEN);
        sums[i] = 0.0f32;
    }
    load(
        q,
        first_query,
        q_heads * dim,
        queries_left,
        &mut queries,
        shape,
    );

    let seen = row.start + min(from + tile, row.count);
    let mut key = first_seen(row.start + from, window) / tile * tile;
    while key < seen {
        load(
            k,
            first_key + key * key_stride,
            key_stride,
            seen - key,
            &mut held,
            shape,
        );
        sync_cube();
        let products = dots(&queries, &held, shape);
        #[unroll]
        for i in 0..per_unit {
            #[unroll]
            for j in 0..per_unit {
                let (y, x) = (unit_y + i * side, unit_x + j * side);
                let position = row.start + from + y;
                let mut score = f32::new(UNSEEN);
                if key + x <= position && key + x + window > position && y < queries_left {
                    score = products[i * per_unit + j] * scale;
                }
                shares[y * (tile + 1) + x] = score;
            }
        }
        sync_cube();
        load(
            v,
            first_key + key * key_stride,
            key_stride,
            seen - key,
            &mut held,
            shape,
        );
        // Every unit of a query finds its maximum.
        #[unroll]
        for i in 0..per_unit {
            let before = maxima[i];
            let mut highest = before;
            for x in 0..tile {
                highest = max(highest, shares[(unit_y + i * side) * (tile + 1) + x]);
            }
            maxima[i] = highest;
            let shrink = (before - highest).exp();
            sums[i] *= shrink;
            #[unroll]
            for c in 0..comptime!(dim.div_ceil(side)) {
                mixed[i * comptime!(dim.div_ceil(side)) + c] *= shrink;
            }
        }
        sync_cube();
        #[unroll]
        for i in 0..per_unit {
            #[unroll]
            for j in 0..per_unit {
                let at = (unit_y + i * side) * (tile + 1) + unit_x + j * side;
                shares[at] = (shares[at] - maxima[i]).exp();
            }
        }
        sync_cube();
        #[unroll]
        for i in 0..per_unit {
            for x in 0..tile {
                sums[i] += shares[(unit_y + i * side) * (tile + 1) + x];
            }
        }
        add_products(&shares, &held, &mut mixed, false, shape);
        sync_cube();
        key += tile;
    }

    #[unroll]
    for i in 0..per_unit {
        let y = unit_y + i * side;
        if unit_x == 0 && y < queries_left {
            let at = (row.first + from + y) * q_heads + head;
            log_sums[at] = maxima[i] + sums[i].ln();
        }
        sums[i] = 1.0f32 / sums[i];
    }
    store(
        &mixed,
        &sums,
        out,
        first_query,
        q_heads * dim,
        queries_left,
        shape,
    );
}
