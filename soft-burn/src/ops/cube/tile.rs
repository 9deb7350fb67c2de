//! Tiles of attention in shared memory: lines of `head_dim` values, `head_dim + 1` apart so that
//! units that read a column meet no bank twice, and scores of queries by keys.
//!
//! A cube has `side` by `side` units. Unit (x, y) has the rows y, y + side and so on of a tile and
//! of them the columns x, x + side and so on.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use crate::ops::attention::Heads;

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
    /// The largest tile for which this number of tiles of lines and two of scores fit.
    pub fn new(heads: Heads, lines: usize, client: &cubecl::client::Client) -> Self {
        let most = client.properties().hardware.max_shared_memory_size;
        let bytes = |tile: usize| 4 * tile * (lines * (heads.dim + 1) + 2 * (tile + 1));
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

/// The states of a row of a pass.
#[derive(CubeType)]
pub(super) struct RowOfPass {
    /// Its first state.
    pub first: usize,
    pub count: usize,
    /// The position of its first state.
    pub start: usize,
}

/// The row that a cube processes, from the layout of [`Ragged`](super::Ragged).
#[cube]
pub(super) fn row_of_pass<I: Int>(layout: &[I]) -> RowOfPass {
    let row = CUBE_POS_Z as usize;
    let rows = CUBE_COUNT_Z as usize;
    let first = usize::cast_from(layout[row]);
    RowOfPass {
        first,
        count: usize::cast_from(layout[row + 1]) - first,
        start: usize::cast_from(layout[rows + 1 + row]),
    }
}

/// A tile of lines.
#[cube]
pub(super) fn lines(#[comptime] shape: Shape) -> Shared<[f32]> {
    Shared::<[f32]>::new_slice(comptime!(shape.tile * (shape.dim + 1)))
}

/// A tile of scores, the keys of a query beside each other.
#[cube]
pub(super) fn scores(#[comptime] shape: Shape) -> Shared<[f32]> {
    Shared::<[f32]>::new_slice(comptime!(shape.tile * (shape.tile + 1)))
}

/// Copies `rows` lines, `stride` apart, into a tile; zeros below them.
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

/// The dot products of a unit's lines of `a`, by y, with its lines of `b`, by x: those of y + i · side
/// and x + j · side at i · (tile / side) + j. An element read from shared memory serves several.
#[cube]
pub(super) fn dots(a: &Shared<[f32]>, b: &Shared<[f32]>, #[comptime] shape: Shape) -> Array<f32> {
    let per_unit = comptime!(shape.tile / shape.side);
    let (stride, side) = comptime!((shape.dim + 1, shape.side));
    let mut sums = Array::<f32>::new(comptime!(per_unit * per_unit));
    #[unroll]
    for at in 0..comptime!(per_unit * per_unit) {
        sums[at] = 0.0f32;
    }
    let mut of_a = Array::<f32>::new(per_unit);
    for column in 0..shape.dim {
        #[unroll]
        for i in 0..per_unit {
            of_a[i] = a[(UNIT_POS_Y as usize + i * side) * stride + column];
        }
        #[unroll]
        for j in 0..per_unit {
            let of_b = b[(UNIT_POS_X as usize + j * side) * stride + column];
            #[unroll]
            for i in 0..per_unit {
                sums[i * per_unit + j] += of_a[i] * of_b;
            }
        }
    }
    sums
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

/// A unit's part of a tile of lines, zero.
#[cube]
pub(super) fn zeros(#[comptime] shape: Shape) -> Array<f32> {
    let parts = comptime!(shape.tile / shape.side * shape.dim.div_ceil(shape.side));
    let mut sums = Array::<f32>::new(parts);
    #[unroll]
    for part in 0..parts {
        sums[part] = 0.0f32;
    }
    sums
}

/// Adds products of scores and lines: to line y the sum over x of the score of query y and key x
/// times line x; with `of_keys` the score of query x and key y.
#[cube]
pub(super) fn add_products(
    scores: &Shared<[f32]>,
    lines: &Shared<[f32]>,
    sums: &mut Array<f32>,
    #[comptime] of_keys: bool,
    #[comptime] shape: Shape,
) {
    let columns = comptime!(shape.dim.div_ceil(shape.side));
    let per_unit = comptime!(shape.tile / shape.side);
    let mut of_x = Array::<f32>::new(per_unit);
    for x in 0..shape.tile {
        #[unroll]
        for i in 0..per_unit {
            let y = UNIT_POS_Y as usize + i * shape.side;
            let mut at = y * comptime!(shape.tile + 1) + x;
            if of_keys {
                at = x * comptime!(shape.tile + 1) + y;
            }
            of_x[i] = scores[at];
        }
        #[unroll]
        for c in 0..columns {
            let column = UNIT_POS_X as usize + c * shape.side;
            if column < shape.dim {
                let value = lines[x * comptime!(shape.dim + 1) + column];
                #[unroll]
                for i in 0..per_unit {
                    sums[i * columns + c] += of_x[i] * value;
                }
            }
        }
    }
}

/// Writes the first `rows` lines, `stride` apart, each times its factor.
#[cube]
pub(super) fn store<F: Float>(
    sums: &Array<f32>,
    factors: &Array<f32>,
    out: &mut [F],
    first: usize,
    stride: usize,
    rows: usize,
    #[comptime] shape: Shape,
) {
    let columns = comptime!(shape.dim.div_ceil(shape.side));
    #[unroll]
    for i in 0..comptime!(shape.tile / shape.side) {
        let y = UNIT_POS_Y as usize + i * shape.side;
        #[unroll]
        for c in 0..columns {
            let column = UNIT_POS_X as usize + c * shape.side;
            if y < rows && column < shape.dim {
                let value = sums[i * columns + c] * factors[i];
                out[first + y * stride + column] = F::cast_from(value);
            }
        }
    }
}
