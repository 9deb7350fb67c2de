//! Products of weights with few states, as in decoding, with what comes before and after them: the
//! norm of the states, SwiGLU, and the residual.
//!
//! Such a product takes the time of reading the weight. A group of [`LANES`] units reads one of its
//! rows and multiplies it with all states. The norm is applied to the row and to the sum: with s =
//! 1 / √(mean x² + ε), the product of a row a with s · x ∘ w is s · (a ∘ w) · x, and the sum of x²
//! is taken along.

use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::tensor::{UNITS, cubes, empty, storage};

/// Most states for which these kernels are used.
pub(super) const MOST_STATES: usize = 8;

/// Units that share a row of a weight.
const LANES: usize = 32;

/// Rows of a weight per cube.
const ROWS: usize = UNITS / LANES;

/// States `[n, d_in]` whose product is taken.
pub(super) struct Operand<'a> {
    pub x: &'a CubeTensor,
    /// The weight of an RMSNorm before the product, `[d_in]`, and its ε.
    pub norm: Option<(&'a CubeTensor, f32)>,
}

/// What kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Extent {
    d_in: usize,
    /// Vectors of a row.
    width: usize,
    /// Most states: 1, 2, 4 or 8.
    bucket: usize,
    /// Whether the states are normalized.
    normed: bool,
}

impl Operand<'_> {
    fn states(&self) -> usize {
        self.x.meta.shape()[0]
    }

    /// Elements read at a time, and the size.
    fn size(&self) -> (usize, Extent) {
        let width = self.x.meta.shape()[1];
        let vector = [4, 2].into_iter().find(|it| width.is_multiple_of(*it));
        let vector = vector.unwrap_or(1);
        let size = Extent {
            d_in: width,
            width: width / vector,
            bucket: self.states().next_power_of_two(),
            normed: self.norm.is_some(),
        };
        (vector, size)
    }

    fn norm(&self) -> (&CubeTensor, f32) {
        self.norm.unwrap_or((self.x, 0.0))
    }

    /// The product with `weight`, `[d_out, d_in]`, plus `residual`: `[n, d_out]` in `dtype`.
    pub fn project(
        &self,
        weight: &CubeTensor,
        residual: Option<&CubeTensor>,
        dtype: DType,
    ) -> CubeTensor {
        let (vector, size) = self.size();
        let (norm, eps) = self.norm();
        let rows = weight.meta.shape()[0];
        let out = empty([self.states(), rows], dtype, self.x);
        one::launch(
            &self.x.client,
            cubes(rows.div_ceil(ROWS)),
            CubeDim::new_1d(UNITS as u32),
            vector,
            self.x.clone().into_buffer_arg(),
            norm.clone().into_buffer_arg(),
            weight.clone().into_buffer_arg(),
            residual.unwrap_or(self.x).clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            eps,
            self.states() as u32,
            rows,
            residual.is_some(),
            size,
            storage(self.x),
            storage(&out),
        );
        out
    }

    /// The products with three weights, of which the last two have the same shape.
    pub fn project_three(&self, weights: [&CubeTensor; 3]) -> [CubeTensor; 3] {
        let (vector, size) = self.size();
        let (norm, eps) = self.norm();
        let [first, further, _] = weights.map(|weight| weight.meta.shape()[0]);
        let out = |rows| empty([self.states(), rows], self.x.dtype, self.x);
        let outs = [out(first), out(further), out(further)];
        let [a, b, c] = weights.map(|weight| weight.clone().into_buffer_arg());
        let [out_a, out_b, out_c] = outs.each_ref().map(|out| out.clone().into_buffer_arg());
        three::launch(
            &self.x.client,
            cubes((first + 2 * further).div_ceil(ROWS)),
            CubeDim::new_1d(UNITS as u32),
            vector,
            self.x.clone().into_buffer_arg(),
            norm.clone().into_buffer_arg(),
            a,
            b,
            c,
            out_a,
            out_b,
            out_c,
            eps,
            self.states() as u32,
            first,
            further,
            size,
            storage(self.x),
        );
        outs
    }

    /// silu(gate x) ∘ up x.
    pub fn project_gated(&self, gate: &CubeTensor, up: &CubeTensor) -> CubeTensor {
        let (vector, size) = self.size();
        let (norm, eps) = self.norm();
        let rows = gate.meta.shape()[0];
        let out = empty([self.states(), rows], self.x.dtype, self.x);
        gated::launch(
            &self.x.client,
            cubes(rows.div_ceil(ROWS)),
            CubeDim::new_1d(UNITS as u32),
            vector,
            self.x.clone().into_buffer_arg(),
            norm.clone().into_buffer_arg(),
            gate.clone().into_buffer_arg(),
            up.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            eps,
            self.states() as u32,
            rows,
            size,
            storage(self.x),
        );
        out
    }
}

#[cube(launch)]
fn one<F: Float, O: Float, N: Size>(
    x: &[Vector<F, N>],
    norm: &[Vector<F, N>],
    weight: &[Vector<F, N>],
    residual: &[F],
    out: &mut [O],
    eps: f32,
    states: u32,
    #[comptime] rows: usize,
    #[comptime] adds: bool,
    #[comptime] size: Extent,
    #[define(F)] _f: ElemType,
    #[define(O)] _o: ElemType,
) {
    let row = CUBE_POS * ROWS + UNIT_POS as usize / LANES;
    let states = states as usize;
    let mut sums = zeros(size);
    if row < rows {
        add_products::<F, N>(weight, row, x, norm, &mut sums, states, size);
    }
    let sums = over_lanes(&sums, size);
    let scale = scale_of_state::<F, N>(x, eps, states, size);
    let state = UNIT_POS as usize % LANES;
    if row < rows && state < states {
        let mut value = sums[state * UNITS + UNIT_POS as usize - state] * scale;
        let at = state * rows + row;
        if adds {
            value += f32::cast_from(residual[at]);
        }
        out[at] = O::cast_from(value);
    }
}

#[cube(launch)]
fn three<F: Float, N: Size>(
    x: &[Vector<F, N>],
    norm: &[Vector<F, N>],
    a: &[Vector<F, N>],
    b: &[Vector<F, N>],
    c: &[Vector<F, N>],
    out_a: &mut [F],
    out_b: &mut [F],
    out_c: &mut [F],
    eps: f32,
    states: u32,
    #[comptime] first: usize,
    #[comptime] further: usize,
    #[comptime] size: Extent,
    #[define(F)] _f: ElemType,
) {
    let row = CUBE_POS * ROWS + UNIT_POS as usize / LANES;
    let states = states as usize;
    let mut sums = zeros(size);
    if row < first {
        add_products::<F, N>(a, row, x, norm, &mut sums, states, size);
    } else if row < first + further {
        add_products::<F, N>(b, row - first, x, norm, &mut sums, states, size);
    } else if row < first + 2 * further {
        add_products::<F, N>(c, row - first - further, x, norm, &mut sums, states, size);
    }
    let sums = over_lanes(&sums, size);
    let scale = scale_of_state::<F, N>(x, eps, states, size);
    let state = UNIT_POS as usize % LANES;
    if state < states {
        let value = F::cast_from(sums[state * UNITS + UNIT_POS as usize - state] * scale);
        if row < first {
            out_a[state * first + row] = value;
        } else if row < first + further {
            out_b[state * further + row - first] = value;
        } else if row < first + 2 * further {
            out_c[state * further + row - first - further] = value;
        }
    }
}

#[cube(launch)]
fn gated<F: Float, N: Size>(
    x: &[Vector<F, N>],
    norm: &[Vector<F, N>],
    gate: &[Vector<F, N>],
    up: &[Vector<F, N>],
    out: &mut [F],
    eps: f32,
    states: u32,
    #[comptime] rows: usize,
    #[comptime] size: Extent,
    #[define(F)] _f: ElemType,
) {
    let row = CUBE_POS * ROWS + UNIT_POS as usize / LANES;
    let states = states as usize;
    let mut gates = zeros(size);
    let mut ups = zeros(size);
    if row < rows {
        add_products::<F, N>(gate, row, x, norm, &mut gates, states, size);
        add_products::<F, N>(up, row, x, norm, &mut ups, states, size);
    }
    let gates = over_lanes(&gates, size);
    let ups = over_lanes(&ups, size);
    let scale = scale_of_state::<F, N>(x, eps, states, size);
    let state = UNIT_POS as usize % LANES;
    if row < rows && state < states {
        let at = state * UNITS + UNIT_POS as usize - state;
        let gate = gates[at] * scale;
        let silu = gate / (1.0f32 + (-gate).exp());
        out[state * rows + row] = F::cast_from(silu * (ups[at] * scale));
    }
}

#[cube]
fn zeros(#[comptime] size: Extent) -> Array<f32> {
    let mut sums = Array::<f32>::new(size.bucket);
    #[unroll]
    for state in 0..size.bucket {
        sums[state] = 0.0f32;
    }
    sums
}

/// Adds this unit's share of the products of a row with every state.
#[cube]
fn add_products<F: Float, N: Size>(
    weight: &[Vector<F, N>],
    row: usize,
    x: &[Vector<F, N>],
    norm: &[Vector<F, N>],
    sums: &mut Array<f32>,
    states: usize,
    #[comptime] size: Extent,
) {
    for column in range_stepped(UNIT_POS as usize % LANES, size.width, LANES) {
        let mut factor = Vector::<f32, N>::cast_from(weight[row * size.width + column]);
        if size.normed {
            factor *= Vector::<f32, N>::cast_from(norm[column]);
        }
        #[unroll]
        for state in 0..size.bucket {
            if state < states {
                let value = Vector::<f32, N>::cast_from(x[state * size.width + column]);
                sums[state] += (factor * value).vector_sum();
            }
        }
    }
}

/// The sums of every group of units: that of the group of unit u for state s is at s · UNITS plus
/// the first unit of the group.
#[cube]
fn over_lanes(sums: &Array<f32>, #[comptime] size: Extent) -> Shared<[f32]> {
    let mut shared = Shared::<[f32]>::new_slice(comptime!(size.bucket * UNITS));
    let unit = UNIT_POS as usize;
    #[unroll]
    for state in 0..size.bucket {
        shared[state * UNITS + unit] = sums[state];
    }
    sync_cube();
    #[unroll]
    for halving in 1..=LANES.ilog2() {
        let half = comptime!(LANES >> halving);
        if unit % LANES < half {
            #[unroll]
            for state in 0..size.bucket {
                let other = shared[state * UNITS + unit + half];
                shared[state * UNITS + unit] += other;
            }
        }
        sync_cube();
    }
    shared
}

/// 1 / √(mean x² + ε) of the state whose result this unit writes; 1 without a norm.
#[cube]
fn scale_of_state<F: Float, N: Size>(
    x: &[Vector<F, N>],
    eps: f32,
    states: usize,
    #[comptime] size: Extent,
) -> f32 {
    let mut scale = 1.0f32;
    if size.normed {
        let mut squares = zeros(size);
        for column in range_stepped(UNIT_POS as usize % LANES, size.width, LANES) {
            #[unroll]
            for state in 0..size.bucket {
                if state < states {
                    let value = Vector::<f32, N>::cast_from(x[state * size.width + column]);
                    squares[state] += (value * value).vector_sum();
                }
            }
        }
        let squares = over_lanes(&squares, size);
        let state = UNIT_POS as usize % LANES;
        if state < states {
            let elements = comptime!(size.d_in as u32);
            let mean =
                squares[state * UNITS + UNIT_POS as usize - state] / f32::cast_from(elements);
            scale = 1.0f32 / (mean + eps).sqrt();
        }
    }
    scale
}
