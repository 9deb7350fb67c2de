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
}

/// The sizes a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub q_heads: usize,
    pub k_heads: usize,
    pub dim: usize,
    /// Queries, and keys, of a tile.
    pub tile: usize,
    /// Units along each axis of a tile.
    pub side: usize,
}

impl Shape {
    /// The largest tile for which `matrices` of `[tile, head_dim]` and two of scores fit.
    pub fn new(heads: Heads, matrices: usize, client: &cubecl::client::Client) -> Self {
        let most = client.properties().hardware.max_shared_memory_size;
        let bytes = |tile: usize| 4 * tile * (matrices * (heads.dim + 1) + 2 * (tile + 1));
        let tile = [32, 16, 8].into_iter().find(|&tile| bytes(tile) <= most);
        let tile = tile.unwrap_or(4);
        Self {
            q_heads: heads.query,
            k_heads: heads.key_value,
            dim: heads.dim,
            tile,
            side: tile.min(16),
        }
    }

    pub fn cube(&self) -> CubeDim {
        CubeDim::new_2d(self.side as u32, self.side as u32)
    }
}

/// Attention of rotated queries `[states, n_heads · head_dim]`.
pub(super) fn attend(rows: &Ragged, q: &CubeTensor, keys: Keys, heads: Heads) -> Attended {
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
    }
}

/// A score of a key that a query does not attend to: its exponential is 0 beside any other.
pub(super) const UNSEEN: f32 = -1e30;

#[cube(launch)]
fn flash<F: Float, I: Int>(
    q: &[F],
    k: &[F],
    v: &[F],
    layout: &[I],
    out: &mut [F],
    log_sums: &mut [f32],
    scale: f32,
    row_stride: u32,
    head_stride: u32,
    key_stride: u32,
    #[comptime] stored: bool,
    #[comptime] shape: Shape,
    #[define(F)] _states: ElemType,
    #[define(I)] _layout: ElemType,
) {
    let Shape {
        q_heads,
        k_heads,
        dim,
        tile,
        side,
    } = shape;
    let per_unit = comptime!(tile / side);
    let columns = comptime!(dim.div_ceil(side));
    let row = CUBE_POS_Z as usize;
    let rows = CUBE_COUNT_Z as usize;
    let head = CUBE_POS_Y as usize;
    let first = usize::cast_from(layout[row]);
    let count = usize::cast_from(layout[row + 1]) - first;
    let start = usize::cast_from(layout[rows + 1 + row]);
    let from = CUBE_POS_X as usize * tile;
    if from >= count {
        terminate!();
    }
    let key_head = head / comptime!(q_heads / k_heads);
    let (unit_x, unit_y) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let key_stride = key_stride as usize;
    let mut first_key = key_head * head_stride as usize;
    if stored {
        first_key += row * row_stride as usize;
    } else {
        first_key += first * key_stride;
    }

    let mut queries = Shared::<[f32]>::new_slice(comptime!(tile * (dim + 1)));
    let mut held = Shared::<[f32]>::new_slice(comptime!(tile * (dim + 1)));
    let mut scores = Shared::<[f32]>::new_slice(comptime!(tile * (tile + 1)));
    let mut sums = Array::<f32>::new(per_unit);
    let mut maxima = Array::<f32>::new(per_unit);
    let mut mixed = Array::<f32>::new(comptime!(per_unit * columns));
    #[unroll]
    for i in 0..per_unit {
        sums[i] = 0.0f32;
        maxima[i] = f32::new(UNSEEN);
        #[unroll]
        for c in 0..columns {
            mixed[i * columns + c] = 0.0f32;
        }
    }
    let first_query = ((first + from) * q_heads + head) * dim;
    load(
        q,
        first_query,
        q_heads * dim,
        count - from,
        &mut queries,
        shape,
    );

    let seen = start + min(from + tile, count);
    let mut key = 0usize;
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
        #[unroll]
        for i in 0..per_unit {
            #[unroll]
            for j in 0..per_unit {
                let (y, x) = (unit_y + i * side, unit_x + j * side);
                let mut score = f32::new(UNSEEN);
                if key + x <= start + from + y {
                    score = dot(&queries, y, &held, x, dim) * scale;
                }
                scores[y * (tile + 1) + x] = score;
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
        // The maximum of each of the unit's queries, found by every unit of the query.
        #[unroll]
        for i in 0..per_unit {
            let y = unit_y + i * side;
            let before = maxima[i];
            let mut highest = before;
            for x in 0..tile {
                highest = max(highest, scores[y * (tile + 1) + x]);
            }
            maxima[i] = highest;
            let shrink = (before - highest).exp();
            sums[i] *= shrink;
            #[unroll]
            for c in 0..columns {
                mixed[i * columns + c] *= shrink;
            }
        }
        sync_cube();
        #[unroll]
        for i in 0..per_unit {
            #[unroll]
            for j in 0..per_unit {
                let at = (unit_y + i * side) * (tile + 1) + unit_x + j * side;
                let exponential = (scores[at] - maxima[i]).exp();
                scores[at] = exponential;
            }
        }
        sync_cube();
        #[unroll]
        for i in 0..per_unit {
            let y = unit_y + i * side;
            for x in 0..tile {
                let share = scores[y * (tile + 1) + x];
                sums[i] += share;
                #[unroll]
                for c in 0..columns {
                    let column = unit_x + c * side;
                    if column < dim {
                        mixed[i * columns + c] += share * held[x * (dim + 1) + column];
                    }
                }
            }
        }
        sync_cube();
        key += tile;
    }

    #[unroll]
    for i in 0..per_unit {
        let y = from + unit_y + i * side;
        if y < count {
            let state = first + y;
            #[unroll]
            for c in 0..columns {
                let column = unit_x + c * side;
                if column < dim {
                    let value = mixed[i * columns + c] / sums[i];
                    out[(state * q_heads + head) * dim + column] = F::cast_from(value);
                }
            }
            if unit_x == 0 {
                log_sums[state * q_heads + head] = maxima[i] + sums[i].ln();
            }
        }
    }
}

/// Copies `rows` lines of `dim` values, `stride` apart, into a tile; zeros below them.
#[cube]
pub(super) fn load<F: Float>(
    values: &[F],
    first: usize,
    stride: usize,
    rows: usize,
    tile: &mut Shared<[f32]>,
    #[comptime] shape: Shape,
) {
    let units = comptime!(shape.side * shape.side);
    for at in range_stepped(UNIT_POS as usize, comptime!(shape.tile * shape.dim), units) {
        let (row, column) = (at / shape.dim, at % shape.dim);
        let mut value = 0.0f32;
        if row < rows {
            value = f32::cast_from(values[first + row * stride + column]);
        }
        tile[row * comptime!(shape.dim + 1) + column] = value;
    }
}

/// The dot product of two lines of tiles.
#[cube]
pub(super) fn dot(
    a: &Shared<[f32]>,
    row_of_a: usize,
    b: &Shared<[f32]>,
    row_of_b: usize,
    #[comptime] dim: usize,
) -> f32 {
    let (a_first, b_first) = (row_of_a * comptime!(dim + 1), row_of_b * comptime!(dim + 1));
    let mut sum = 0.0f32;
    for i in 0..dim {
        sum += a[a_first + i] * b[b_first + i];
    }
    sum
}
