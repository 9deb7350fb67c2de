//! The gradient of causal attention, which computes the scores of a tile again.
//!
//! Source: Dao, FlashAttention-2 (arXiv 2307.08691), section 3.1. One kernel goes through the keys
//! of a tile of queries, the other through the queries of a tile of keys, so that every gradient is
//! summed in a fixed order.

use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::attention::{Attended, first_seen};
use super::ragged::Ragged;
use super::tensor::{empty, empty_like, storage};
use super::tile::{Shape, add_products, dot, dots, lines, load, row_of_pass, scores, store, zeros};
use crate::ops::attention::Heads;

/// The gradients of rotated queries and keys and of values, from that of the output.
pub(super) fn gradients(
    rows: &Ragged,
    attended: Attended,
    gradient: CubeTensor,
    heads: Heads,
) -> [CubeTensor; 3] {
    let Attended {
        q,
        keys,
        out,
        log_sums,
        window,
    } = attended;
    let (k, v) = (keys.k, keys.v);
    let shape = Shape::new(heads, 4, &q.client);
    let states = q.meta.shape()[0];
    let tiles = rows.longest.div_ceil(shape.tile) as u32;
    let scale = 1.0 / (heads.dim as f32).sqrt();
    let deltas = empty([states, heads.query], DType::F32, &q);
    let (of_q, of_k, of_v) = (empty_like(&q), empty_like(&k), empty_like(&v));
    gradient_of_queries::launch(
        &q.client,
        CubeCount::Static(tiles, heads.query as u32, rows.rows as u32),
        shape.cube(),
        q.clone().into_buffer_arg(),
        k.clone().into_buffer_arg(),
        v.clone().into_buffer_arg(),
        rows.layout.clone().into_buffer_arg(),
        out.into_buffer_arg(),
        gradient.clone().into_buffer_arg(),
        log_sums.clone().into_buffer_arg(),
        deltas.clone().into_buffer_arg(),
        of_q.clone().into_buffer_arg(),
        scale,
        window as u32,
        shape,
        storage(&q),
        storage(&rows.layout),
    );
    gradients_of_keys::launch(
        &q.client,
        CubeCount::Static(tiles, heads.key_value as u32, rows.rows as u32),
        shape.cube(),
        q.clone().into_buffer_arg(),
        k.into_buffer_arg(),
        v.into_buffer_arg(),
        rows.layout.clone().into_buffer_arg(),
        gradient.into_buffer_arg(),
        log_sums.into_buffer_arg(),
        deltas.into_buffer_arg(),
        of_k.clone().into_buffer_arg(),
        of_v.clone().into_buffer_arg(),
        scale,
        window as u32,
        shape,
        storage(&q),
        storage(&rows.layout),
    );
    [of_q, of_k, of_v]
}

/// With P the softmax of the scores and δ the sum of g ∘ out of a query: the gradient of a score is
/// P · (g · v − δ). δ is written for the other kernel.
#[cube(launch)]
fn gradient_of_queries<F: Float, I: Int>(
    q: &[F],
    k: &[F],
    v: &[F],
    layout: &[I],
    out: &[F],
    gradient: &[F],
    log_sums: &[f32],
    deltas: &mut [f32],
    of_q: &mut [F],
    scale: f32,
    window: u32,
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
    let key_head = head / comptime!(q_heads / k_heads);
    let (unit_x, unit_y) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let (q_stride, k_stride) = (q_heads * dim, k_heads * dim);
    let first_query = ((row.first + from) * q_heads + head) * dim;
    let left = row.count - from;

    let mut queries = lines(shape);
    let mut arriving = lines(shape);
    let mut keys = lines(shape);
    let mut values = lines(shape);
    let mut of_scores = scores(shape);
    let mut found = zeros(shape);
    load(q, first_query, q_stride, left, &mut queries, shape);
    load(gradient, first_query, q_stride, left, &mut arriving, shape);
    load(out, first_query, q_stride, left, &mut values, shape);
    sync_cube();
    let mut delta = Array::<f32>::new(per_unit);
    let mut log_sum = Array::<f32>::new(per_unit);
    let mut ones = Array::<f32>::new(per_unit);
    #[unroll]
    for i in 0..per_unit {
        let y = unit_y + i * side;
        ones[i] = 1.0f32;
        delta[i] = dot(&arriving, y, &values, y, dim);
        log_sum[i] = 0.0f32;
        if y < left {
            let at = (row.first + from + y) * q_heads + head;
            log_sum[i] = log_sums[at];
            if unit_x == 0 {
                deltas[at] = delta[i];
            }
        }
    }
    sync_cube();

    let window = window as usize;
    let seen = min(from + tile, row.count);
    let mut key = first_seen(from, window) / tile * tile;
    while key < seen {
        let first_key = ((row.first + key) * k_heads + key_head) * dim;
        load(k, first_key, k_stride, seen - key, &mut keys, shape);
        load(v, first_key, k_stride, seen - key, &mut values, shape);
        sync_cube();
        let products = dots(&queries, &keys, shape);
        let into_shares = dots(&arriving, &values, shape);
        #[unroll]
        for i in 0..per_unit {
            #[unroll]
            for j in 0..per_unit {
                let (y, x) = (unit_y + i * side, unit_x + j * side);
                let mut of_score = 0.0f32;
                if key + x <= from + y && key + x + window > from + y {
                    let score = products[i * per_unit + j] * scale;
                    let share = (score - log_sum[i]).exp();
                    let into_share = into_shares[i * per_unit + j];
                    of_score = share * (into_share - delta[i]) * scale;
                }
                of_scores[y * (tile + 1) + x] = of_score;
            }
        }
        sync_cube();
        add_products(&of_scores, &keys, &mut found, false, shape);
        sync_cube();
        key += tile;
    }
    store(&found, &ones, of_q, first_query, q_stride, left, shape);
}

/// The gradients of a tile of keys and values, over all queries of the heads that share them.
#[cube(launch)]
fn gradients_of_keys<F: Float, I: Int>(
    q: &[F],
    k: &[F],
    v: &[F],
    layout: &[I],
    gradient: &[F],
    log_sums: &[f32],
    deltas: &[f32],
    of_k: &mut [F],
    of_v: &mut [F],
    scale: f32,
    window: u32,
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
    let key_head = CUBE_POS_Y as usize;
    let (unit_x, unit_y) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let (q_stride, k_stride) = (q_heads * dim, k_heads * dim);
    let first_key = ((row.first + from) * k_heads + key_head) * dim;
    let left = row.count - from;

    let mut queries = lines(shape);
    let mut arriving = lines(shape);
    let mut keys = lines(shape);
    let mut values = lines(shape);
    let mut shares = scores(shape);
    let mut of_scores = scores(shape);
    let mut into_k = zeros(shape);
    let mut into_v = zeros(shape);
    let mut ones = Array::<f32>::new(per_unit);
    #[unroll]
    for i in 0..per_unit {
        ones[i] = 1.0f32;
    }
    load(k, first_key, k_stride, left, &mut keys, shape);
    load(v, first_key, k_stride, left, &mut values, shape);

    let window = window as usize;
    // Behind the last query that attends to a key of the tile.
    let last = min(row.count, from + tile - 1 + window);
    for sharing in 0..comptime!(q_heads / k_heads) {
        let head = key_head * comptime!(q_heads / k_heads) + sharing;
        let mut query = from;
        while query < last {
            let first_query = ((row.first + query) * q_heads + head) * dim;
            load(
                q,
                first_query,
                q_stride,
                row.count - query,
                &mut queries,
                shape,
            );
            load(
                gradient,
                first_query,
                q_stride,
                row.count - query,
                &mut arriving,
                shape,
            );
            sync_cube();
            let products = dots(&queries, &keys, shape);
            let into_shares = dots(&arriving, &values, shape);
            #[unroll]
            for i in 0..per_unit {
                let y = unit_y + i * side;
                let mut log_sum = 0.0f32;
                let mut delta = 0.0f32;
                if query + y < row.count {
                    let at = (row.first + query + y) * q_heads + head;
                    log_sum = log_sums[at];
                    delta = deltas[at];
                }
                #[unroll]
                for j in 0..per_unit {
                    let x = unit_x + j * side;
                    let mut share = 0.0f32;
                    let mut of_score = 0.0f32;
                    let seen = from + x <= query + y && from + x + window > query + y;
                    if seen && query + y < row.count {
                        let score = products[i * per_unit + j] * scale;
                        share = (score - log_sum).exp();
                        let into_share = into_shares[i * per_unit + j];
                        of_score = share * (into_share - delta) * scale;
                    }
                    shares[y * (tile + 1) + x] = share;
                    of_scores[y * (tile + 1) + x] = of_score;
                }
            }
            sync_cube();
            add_products(&of_scores, &queries, &mut into_k, true, shape);
            add_products(&shares, &arriving, &mut into_v, true, shape);
            sync_cube();
            query += tile;
        }
    }
    store(&into_k, &ones, of_k, first_key, k_stride, left, shape);
    store(&into_v, &ones, of_v, first_key, k_stride, left, shape);
}
