//! Attention of single states over stored keys: one cube per state and head, one key per unit at a
//! time, with a running maximum and sum.
//!
//! The tiles of `attention` would be filled by a few queries only.

use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::attention::{Keys, UNSEEN, first_seen};
use super::ragged::Ragged;
use super::tensor::{UNITS, empty_like, max_over_cube, storage, sum_over_cube};
use crate::ops::attention::Heads;

/// Attention of rotated queries `[states, n_heads · head_dim]` over a store, to their own positions
/// and the `window - 1` before.
pub(super) fn attend_singly(
    rows: &Ragged,
    q: &CubeTensor,
    keys: &Keys,
    heads: Heads,
    window: usize,
) -> CubeTensor {
    let out = empty_like(q);
    attend_to_keys::launch(
        &q.client,
        CubeCount::Static(rows.states as u32, heads.query as u32, 1),
        CubeDim::new_1d(UNITS as u32),
        q.clone().into_buffer_arg(),
        keys.k.clone().into_buffer_arg(),
        keys.v.clone().into_buffer_arg(),
        rows.layout.clone().into_buffer_arg(),
        out.clone().into_buffer_arg(),
        1.0 / (heads.dim as f32).sqrt(),
        rows.rows as u32,
        window as u32,
        keys.row_stride.unwrap_or(0) as u32,
        keys.head_stride as u32,
        keys.key_stride as u32,
        heads.query,
        heads.key_value,
        heads.dim,
        storage(q),
        storage(&rows.layout),
    );
    out
}

#[cube(launch)]
fn attend_to_keys<F: Float, I: Int>(
    q: &[F],
    k: &[F],
    v: &[F],
    layout: &[I],
    out: &mut [F],
    scale: f32,
    rows: u32,
    window: u32,
    row_stride: u32,
    head_stride: u32,
    key_stride: u32,
    #[comptime] q_heads: usize,
    #[comptime] k_heads: usize,
    #[comptime] dim: usize,
    #[define(F)] _f: ElemType,
    #[define(I)] _i: ElemType,
) {
    // Units that mix the same column, each of them a share of the keys; or columns of a unit.
    let groups = comptime!((UNITS / dim).max(1));
    let columns = comptime!(dim.div_ceil(UNITS));
    let (state, head) = (CUBE_POS_X as usize, CUBE_POS_Y as usize);
    let states = CUBE_COUNT_X as usize;
    let unit = UNIT_POS as usize;
    let row = usize::cast_from(layout[layout.len() - 2 * states + state]);
    let start = usize::cast_from(layout[rows as usize + 1 + row]);
    let seen = start + state - usize::cast_from(layout[row]) + 1;
    let key_stride = key_stride as usize;
    let first_key =
        row * row_stride as usize + head / comptime!(q_heads / k_heads) * head_stride as usize;
    let first_query = (state * q_heads + head) * dim;

    let mut query = Shared::<[f32]>::new_slice(dim);
    for i in range_stepped(unit, dim, UNITS) {
        query[i] = f32::cast_from(q[first_query + i]) * scale;
    }
    sync_cube();
    let mut shares = Shared::<[f32]>::new_slice(UNITS);
    let mut mixed = Array::<f32>::new(columns);
    #[unroll]
    for c in 0..columns {
        mixed[c] = 0.0f32;
    }
    let mut highest = f32::new(UNSEEN);
    let mut sum = 0.0f32;
    let mut key = first_seen(seen - 1, window as usize);
    while key < seen {
        let mut score = f32::new(UNSEEN);
        if key + unit < seen {
            let first = first_key + (key + unit) * key_stride;
            score = 0.0f32;
            for i in 0..dim {
                score += query[i] * f32::cast_from(k[first + i]);
            }
        }
        let before = highest;
        highest = max(before, max_over_cube(score));
        let shrink = (before - highest).exp();
        let share = (score - highest).exp();
        shares[unit] = share;
        // Waits for all shares.
        sum = sum * shrink + sum_over_cube(share);
        let in_reach = min(seen - key, UNITS);
        #[unroll]
        for c in 0..columns {
            let column = unit % dim + c * UNITS;
            mixed[c] *= shrink;
            if unit / dim < groups && column < dim {
                for x in range_stepped(unit / dim, in_reach, groups) {
                    let at = first_key + (key + x) * key_stride + column;
                    mixed[c] += shares[x] * f32::cast_from(v[at]);
                }
            }
        }
        sync_cube();
        key += UNITS;
    }
    if groups > 1 {
        shares[unit] = mixed[0];
        sync_cube();
        if unit < dim {
            let mut total = 0.0f32;
            for group in 0..groups {
                total += shares[group * dim + unit];
            }
            mixed[0] = total;
        }
    }
    #[unroll]
    for c in 0..columns {
        let column = unit + c * UNITS;
        if column < dim {
            out[first_query + column] = F::cast_from(mixed[c] / sum);
        }
    }
}
