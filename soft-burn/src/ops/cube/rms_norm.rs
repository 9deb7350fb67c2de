//! RMSNorm in one launch; its gradient in one for the states and two for the weight.

use burn::tensor::{DType, Tensor};
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::tensor::{
    Kept, UNITS, apply, cubes, empty, empty_like, input, memory, storage, sum_over_cube, sum_rows,
};

/// `ops::rms_norm::rms_norm`.
pub(crate) fn rms_norm(x: &Tensor<2>, weight: &Tensor<1>, eps: f64) -> Option<Tensor<2>> {
    apply([input(x)?, input(weight)?], |[x, weight], _| {
        let [rows, width] = x.meta.shape().dims();
        let (out, scales) = (empty_like(&x), empty([rows], DType::F32, &x));
        normalize::launch(
            &x.client,
            cubes(rows),
            CubeDim::new_1d(UNITS as u32),
            x.clone().into_buffer_arg(),
            weight.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            scales.clone().into_buffer_arg(),
            eps as f32,
            width,
            storage(&x),
            storage(&weight),
        );
        (out, Normalized { x, weight, scales })
    })
}

/// `ops::rms_norm::add_and_normalize`: one launch for both results, which enter the graph as a sum
/// and as its norm.
pub(crate) fn add_and_normalize(
    x: &Tensor<2>,
    added: &Tensor<2>,
    weight: &Tensor<1>,
    eps: f64,
) -> Option<(Tensor<2>, Tensor<2>)> {
    let mut normed = None;
    let norm = memory(weight)?;
    let sum: Tensor<2> = apply([input(x)?, input(added)?], |[x, added], _| {
        let [rows, width] = x.meta.shape().dims();
        let (sum, out) = (empty_like(&x), empty_like(&x));
        let scales = empty([rows], DType::F32, &x);
        add_and_normalize_rows::launch(
            &x.client,
            cubes(rows),
            CubeDim::new_1d(UNITS as u32),
            x.clone().into_buffer_arg(),
            added.into_buffer_arg(),
            norm.clone().into_buffer_arg(),
            sum.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            scales.clone().into_buffer_arg(),
            eps as f32,
            width,
            storage(&x),
            storage(&norm),
        );
        normed = Some((out, scales));
        (sum, Sum)
    })?;
    let (out, scales) = normed?;
    let out = apply([input(&sum)?, input(weight)?], |[x, weight], _| {
        (out, Normalized { x, weight, scales })
    })?;
    Some((sum, out))
}

#[derive(Clone, Debug)]
struct Sum;

impl Kept<2> for Sum {
    fn gradients(self, gradient: CubeTensor, _wanted: [bool; 2]) -> [Option<CubeTensor>; 2] {
        [Some(gradient.clone()), Some(gradient)]
    }
}

#[derive(Clone, Debug)]
struct Normalized {
    x: CubeTensor,
    weight: CubeTensor,
    /// 1 / √(mean x² + ε) of every row.
    scales: CubeTensor,
}

impl Kept<2> for Normalized {
    fn gradients(self, gradient: CubeTensor, wanted: [bool; 2]) -> [Option<CubeTensor>; 2] {
        let Self { x, weight, scales } = self;
        let [rows, width] = x.meta.shape().dims();
        let of_weight = wanted[1].then(|| {
            let parts = rows.div_ceil(ROWS);
            let out = empty([parts, width], DType::F32, &x);
            gradient_of_weight::launch(
                &x.client,
                CubeCount::Static(width.div_ceil(UNITS) as u32, parts as u32, 1),
                CubeDim::new_1d(UNITS as u32),
                x.clone().into_buffer_arg(),
                gradient.clone().into_buffer_arg(),
                scales.clone().into_buffer_arg(),
                out.clone().into_buffer_arg(),
                width,
                storage(&x),
            );
            sum_rows(out, weight.dtype)
        });
        let of_x = wanted[0].then(|| {
            let out = empty_like(&x);
            gradient_of_states::launch(
                &x.client,
                cubes(rows),
                CubeDim::new_1d(UNITS as u32),
                x.clone().into_buffer_arg(),
                weight.clone().into_buffer_arg(),
                gradient.into_buffer_arg(),
                scales.into_buffer_arg(),
                out.clone().into_buffer_arg(),
                width,
                storage(&x),
                storage(&weight),
            );
            out
        });
        [of_x, of_weight]
    }
}

#[cube(launch)]
fn normalize<F: Float, W: Float>(
    x: &[F],
    weight: &[W],
    out: &mut [F],
    scales: &mut [f32],
    eps: f32,
    #[comptime] width: usize,
    #[define(F)] _f: ElemType,
    #[define(W)] _w: ElemType,
) {
    let row = CUBE_POS;
    if row >= scales.len() {
        terminate!();
    }
    let first = row * width;
    let mut squares = 0.0f32;
    for column in range_stepped(UNIT_POS as usize, width, UNITS) {
        let value = f32::cast_from(x[first + column]);
        squares += value * value;
    }
    let scale = scale_of_row(squares, eps, scales, width);
    for column in range_stepped(UNIT_POS as usize, width, UNITS) {
        let value = f32::cast_from(x[first + column]) * scale;
        out[first + column] = F::cast_from(value * f32::cast_from(weight[column]));
    }
}

#[cube(launch)]
fn add_and_normalize_rows<F: Float, W: Float>(
    x: &[F],
    added: &[F],
    weight: &[W],
    sum: &mut [F],
    out: &mut [F],
    scales: &mut [f32],
    eps: f32,
    #[comptime] width: usize,
    #[define(F)] _f: ElemType,
    #[define(W)] _w: ElemType,
) {
    let row = CUBE_POS;
    if row >= scales.len() {
        terminate!();
    }
    let first = row * width;
    let mut squares = 0.0f32;
    for column in range_stepped(UNIT_POS as usize, width, UNITS) {
        let at = first + column;
        let both = F::cast_from(f32::cast_from(x[at]) + f32::cast_from(added[at]));
        sum[at] = both;
        // As rounded, since the states are the sum.
        let value = f32::cast_from(both);
        squares += value * value;
    }
    let scale = scale_of_row(squares, eps, scales, width);
    for column in range_stepped(UNIT_POS as usize, width, UNITS) {
        let value = f32::cast_from(sum[first + column]) * scale;
        out[first + column] = F::cast_from(value * f32::cast_from(weight[column]));
    }
}

/// 1 / √(mean x² + ε) of the cube's row, which is also written, from this unit's share of Σ x².
#[cube]
fn scale_of_row(squares: f32, eps: f32, scales: &mut [f32], #[comptime] width: usize) -> f32 {
    let mean = sum_over_cube(squares) / f32::cast_from(width as u32);
    let scale = 1.0f32 / (mean + eps).sqrt();
    if UNIT_POS == 0 {
        scales[CUBE_POS] = scale;
    }
    scale
}

/// With y = s · x ∘ w and s = 1 / √(mean x² + ε): s · (w ∘ g − x · s² · mean(x ∘ w ∘ g)).
#[cube(launch)]
fn gradient_of_states<F: Float, W: Float>(
    x: &[F],
    weight: &[W],
    gradient: &[F],
    scales: &[f32],
    out: &mut [F],
    #[comptime] width: usize,
    #[define(F)] _f: ElemType,
    #[define(W)] _w: ElemType,
) {
    let row = CUBE_POS;
    if row >= scales.len() {
        terminate!();
    }
    let first = row * width;
    let mut dot = 0.0f32;
    for column in range_stepped(UNIT_POS as usize, width, UNITS) {
        let weighed = f32::cast_from(gradient[first + column]) * f32::cast_from(weight[column]);
        dot += weighed * f32::cast_from(x[first + column]);
    }
    let scale = scales[row];
    let along = sum_over_cube(dot) / f32::cast_from(width as u32) * scale * scale;
    for column in range_stepped(UNIT_POS as usize, width, UNITS) {
        let weighed = f32::cast_from(gradient[first + column]) * f32::cast_from(weight[column]);
        let value = scale * (weighed - f32::cast_from(x[first + column]) * along);
        out[first + column] = F::cast_from(value);
    }
}

/// Rows that a unit of `gradient_of_weight` sums.
const ROWS: usize = 64;

/// Σ over rows of g ∘ x · s, for [`ROWS`] rows at a time.
#[cube(launch)]
fn gradient_of_weight<F: Float>(
    x: &[F],
    gradient: &[F],
    scales: &[f32],
    out: &mut [f32],
    #[comptime] width: usize,
    #[define(F)] _f: ElemType,
) {
    let column = ABSOLUTE_POS_X as usize;
    if column >= width {
        terminate!();
    }
    let part = CUBE_POS_Y as usize;
    let first = part * ROWS;
    let end = min(first + ROWS, scales.len());
    let mut sum = 0.0f32;
    for row in range_stepped(first, end, 1usize) {
        let at = row * width + column;
        sum += f32::cast_from(gradient[at]) * f32::cast_from(x[at]) * scales[row];
    }
    out[part * width + column] = sum;
}
