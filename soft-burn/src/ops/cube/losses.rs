//! Losses of logits, and their gradient written over the logits.
//!
//! One cube reads a row of logits three times: for its maximum, for the sums of exponentials, and
//! for the gradient. Composed of tensor operations it takes a dozen passes and as many copies.

use burn::tensor::{DType, Tensor};
use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::tensor::{
    UNITS, buffer, cubes, empty, index_buffer, max_over_cube, own, storage, sum_over_cube, tensor,
};
use crate::ops::head_loss::terms::{ChunkLosses, Scales};

/// `ops::head_loss::losses` on a device where [`runs_on`](super::runs_on) holds.
pub(crate) fn losses(
    logits: Tensor<2>,
    taught: Option<Tensor<2>>,
    tokens: Tensor<1, burn::tensor::Int>,
    scales: &Scales,
) -> ChunkLosses {
    let [rows, vocab] = logits.dims();
    let exits = scales.exits();
    let teaches = taught.is_some();
    let logits = own(logits);
    let taught = taught.map_or_else(|| logits.clone(), buffer);
    let tokens = index_buffer(tokens);
    let per_row = || empty([rows / exits, exits], DType::F32, &logits);
    let (nats, divergence) = (per_row(), per_row());
    losses_of_rows::launch(
        &logits.client,
        cubes(rows),
        CubeDim::new_1d(UNITS as u32),
        logits.clone().into_buffer_arg(),
        taught.into_buffer_arg(),
        tokens.clone().into_buffer_arg(),
        buffer(scales.on_device.clone()).into_buffer_arg(),
        nats.clone().into_buffer_arg(),
        divergence.clone().into_buffer_arg(),
        scales.temperature as f32,
        exits as u32,
        vocab,
        teaches,
        storage(&logits),
        storage(&tokens),
    );
    ChunkLosses {
        nats: tensor(nats),
        divergence: teaches.then(|| tensor(divergence)),
        gradient: tensor(logits),
    }
}

/// Where `teaches` is false, `taught` is not read.
#[cube(launch)]
fn losses_of_rows<F: Float, I: Int>(
    logits: &mut [F],
    taught: &[F],
    tokens: &[I],
    scales: &[f32],
    nats: &mut [f32],
    divergence: &mut [f32],
    temperature: f32,
    exits: u32,
    #[comptime] vocab: usize,
    #[comptime] teaches: bool,
    #[define(F)] _f: ElemType,
    #[define(I)] _i: ElemType,
) {
    let row = CUBE_POS;
    if row >= nats.len() {
        terminate!();
    }
    let exits = exits as usize;
    let (position, exit) = (row / exits, row % exits);
    let (hard, soft) = (scales[exit], scales[exits + exit]);
    let token = usize::cast_from(tokens[position]);
    let (first, first_taught) = (row * vocab, position * vocab);
    let unit = UNIT_POS as usize;

    let mut highest = f32::cast_from(logits[first]);
    for i in range_stepped(unit, vocab, UNITS) {
        highest = max(highest, f32::cast_from(logits[first + i]));
    }
    let highest = max_over_cube(highest);
    let mut sum = 0.0f32;
    for i in range_stepped(unit, vocab, UNITS) {
        sum += (f32::cast_from(logits[first + i]) - highest).exp();
    }
    let log_sum = highest + sum_over_cube(sum).ln();
    if unit == 0 {
        nats[row] = log_sum - f32::cast_from(logits[first + token]);
    }

    let mut log_soft = 0.0f32;
    let mut log_taught = 0.0f32;
    if teaches {
        let mut highest_taught = f32::cast_from(taught[first_taught]);
        for i in range_stepped(unit, vocab, UNITS) {
            highest_taught = max(highest_taught, f32::cast_from(taught[first_taught + i]));
        }
        let highest_taught = max_over_cube(highest_taught);
        let mut softer = 0.0f32;
        let mut of_taught = 0.0f32;
        for i in range_stepped(unit, vocab, UNITS) {
            softer += ((f32::cast_from(logits[first + i]) - highest) / temperature).exp();
            let above = f32::cast_from(taught[first_taught + i]) - highest_taught;
            of_taught += (above / temperature).exp();
        }
        log_soft = highest / temperature + sum_over_cube(softer).ln();
        log_taught = highest_taught / temperature + sum_over_cube(of_taught).ln();
    }
    // The logit of the token was read above by one unit, and is overwritten below by another.
    sync_cube();

    let mut apart = 0.0f32;
    for i in range_stepped(unit, vocab, UNITS) {
        let logit = f32::cast_from(logits[first + i]);
        let mut gradient = (logit - log_sum).exp() * hard;
        if i == token {
            gradient -= hard;
        }
        if teaches {
            let log_q = logit / temperature - log_soft;
            let log_p = f32::cast_from(taught[first_taught + i]) / temperature - log_taught;
            let p = log_p.exp();
            apart += p * (log_p - log_q);
            gradient += (log_q.exp() - p) * soft * temperature;
        }
        logits[first + i] = F::cast_from(gradient);
    }
    if teaches {
        let mut apart = sum_over_cube(apart);
        if soft == 0.0f32 {
            apart = 0.0f32;
        }
        if unit == 0 {
            divergence[row] = apart;
        }
    }
}
