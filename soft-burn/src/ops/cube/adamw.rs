//! AdamW in one launch a parameter, in place, and sums of squares.

use burn::tensor::{DType, Tensor};
use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::tensor::{UNITS, buffer, empty, own, storage, sum_over_cube, tensor, units};
use crate::ops::adamw::step::{AdamWStep, Moving};

impl AdamWStep {
    /// Updates a parameter in f32; memory that is not shared is overwritten. Also returns the
    /// parameter rounded to `dtype`, if that is not f32.
    pub(crate) fn by_cube(
        &self,
        gradient: Tensor<1>,
        moving: Moving,
        dtype: DType,
    ) -> (Moving, Option<Tensor<1>>) {
        let gradient = buffer(gradient);
        let [value, first, second] = [moving.value, moving.first, moving.second].map(own);
        let rounds = dtype != DType::F32;
        let length = if rounds { value.meta.num_elements() } else { 1 };
        let rounded = empty([length], dtype, &value);
        let (beta1, beta2) = (f64::from(self.beta1), f64::from(self.beta2));
        let time = self.time as f64;
        let (bias1, bias2) = (1.0 - beta1.powf(time), 1.0 - beta2.powf(time));
        let (count, dim) = units(value.meta.num_elements());
        adamw::launch(
            &value.client,
            count,
            dim,
            gradient.clone().into_buffer_arg(),
            value.clone().into_buffer_arg(),
            first.clone().into_buffer_arg(),
            second.clone().into_buffer_arg(),
            rounded.clone().into_buffer_arg(),
            self.scale as f32,
            self.beta1,
            self.beta2,
            self.eps,
            (self.rate / bias1) as f32,
            (1.0 / bias2.sqrt()) as f32,
            (1.0 - self.rate * f64::from(self.decay)) as f32,
            rounds,
            storage(&gradient),
            storage(&rounded),
        );
        let moving = Moving {
            value: tensor(value),
            first: tensor(first),
            second: tensor(second),
        };
        (moving, rounds.then(|| tensor(rounded)))
    }
}

#[cube(launch)]
fn adamw<G: Float, W: Float>(
    gradient: &[G],
    value: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
    rounded: &mut [W],
    scale: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    rate: f32,
    root: f32,
    keep: f32,
    #[comptime] rounds: bool,
    #[define(G)] _g: ElemType,
    #[define(W)] _w: ElemType,
) {
    if ABSOLUTE_POS >= value.len() {
        terminate!();
    }
    let gradient = f32::cast_from(gradient[ABSOLUTE_POS]) * scale;
    let mean = beta1 * first[ABSOLUTE_POS] + (1.0f32 - beta1) * gradient;
    let square = beta2 * second[ABSOLUTE_POS] + (1.0f32 - beta2) * gradient * gradient;
    first[ABSOLUTE_POS] = mean;
    second[ABSOLUTE_POS] = square;
    let moved = value[ABSOLUTE_POS] * keep - rate * mean / (square.sqrt() * root + eps);
    value[ABSOLUTE_POS] = moved;
    if rounds {
        rounded[ABSOLUTE_POS] = W::cast_from(moved);
    }
}

/// Most cubes that sum the squares of one tensor.
const PARTS: usize = UNITS;

/// The sum of squares of every tensor, `[tensors]`; there are some, all on one device.
pub(crate) fn sums_of_squares(tensors: &[&Tensor<1>]) -> Tensor<1> {
    let first = buffer(tensors[0].clone());
    let parts = empty([tensors.len(), PARTS], DType::F32, &first);
    for (index, one) in tensors.iter().enumerate() {
        let one = buffer((*one).clone());
        squares::launch(
            &first.client,
            CubeCount::Static(PARTS as u32, 1, 1),
            CubeDim::new_1d(UNITS as u32),
            one.clone().into_buffer_arg(),
            parts.clone().into_buffer_arg(),
            index as u32,
            storage(&one),
        );
    }
    let sums = empty([tensors.len()], DType::F32, &first);
    sums_of_rows::launch(
        &first.client,
        CubeCount::Static(tensors.len() as u32, 1, 1),
        CubeDim::new_1d(UNITS as u32),
        parts.into_buffer_arg(),
        sums.clone().into_buffer_arg(),
    );
    tensor(sums)
}

#[cube(launch)]
fn squares<F: Float>(values: &[F], parts: &mut [f32], index: u32, #[define(F)] _f: ElemType) {
    let mut sum = 0.0f32;
    for at in range_stepped(ABSOLUTE_POS, values.len(), PARTS * UNITS) {
        let value = f32::cast_from(values[at]);
        sum += value * value;
    }
    let sum = sum_over_cube(sum);
    if UNIT_POS == 0 {
        parts[index as usize * PARTS + CUBE_POS] = sum;
    }
}

#[cube(launch)]
fn sums_of_rows(parts: &[f32], sums: &mut [f32]) {
    let sum = sum_over_cube(parts[CUBE_POS * PARTS + UNIT_POS as usize]);
    if UNIT_POS == 0 {
        sums[CUBE_POS] = sum;
    }
}
