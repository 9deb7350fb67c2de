//! The best token of every state and its scores: two launches after the norm and the head, of which
//! few numbers are read.

use burn::tensor::{DType, Tensor};
use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::matvec::{MOST_STATES, Operand};
use super::tensor::{UNITS, buffer, cubes, empty, runs_on, storage, sum_over_cube, tensor};

/// Numbers per state.
pub(crate) const SCORES: usize = 5;

/// Logits `[n, tokens]` in f32 of few states; `None` for many, and on other backends.
pub(crate) fn logits(
    states: &Tensor<2>,
    (norm, eps): (&Tensor<1>, f64),
    weight: &Tensor<2>,
) -> Option<Tensor<2>> {
    let [n, _] = states.dims();
    if n > MOST_STATES || !runs_on(&states.device()) || states.device().is_autodiff() {
        return None;
    }
    let (states, norm) = (buffer(states.clone()), buffer(norm.clone()));
    let operand = Operand {
        x: &states,
        norm: Some((&norm, eps as f32)),
    };
    let logits = operand.project(&buffer(weight.clone()), None, DType::F32);
    Some(tensor(logits))
}

/// Of every row of logits `[n, tokens]` in f32: the index of the highest, the lowest of equal ones;
/// the highest; the second; log Σ exp; and the entropy in nats: `[n, 5]`. A NaN among the logits
/// makes the last two NaN. `None` on other backends.
pub(crate) fn scores(logits: &Tensor<2>) -> Option<Tensor<2>> {
    if !runs_on(&logits.device()) || logits.device().is_autodiff() {
        return None;
    }
    let [n, tokens] = logits.dims();
    let logits = buffer(logits.clone());
    let out = empty([n, SCORES], DType::F32, &logits);
    scores_of_rows::launch(
        &logits.client,
        cubes(n),
        CubeDim::new_1d(UNITS as u32),
        logits.clone().into_buffer_arg(),
        out.clone().into_buffer_arg(),
        tokens as u32,
        storage(&logits),
    );
    Some(tensor(out))
}

#[cube(launch)]
fn scores_of_rows<F: Float>(logits: &[F], out: &mut [f32], tokens: u32, #[define(F)] _f: ElemType) {
    let row = CUBE_POS;
    let tokens = tokens as usize;
    if row * tokens >= logits.len() {
        terminate!();
    }
    let first = row * tokens;
    let unit = UNIT_POS as usize;
    let mut highest = Shared::<[f32]>::new_slice(UNITS);
    let mut second = Shared::<[f32]>::new_slice(UNITS);
    let mut index = Shared::<[u32]>::new_slice(UNITS);
    let mut own_highest = f32::new(LOWEST);
    let mut own_second = f32::new(LOWEST);
    let mut own_index = 0u32;
    for token in range_stepped(unit, tokens, UNITS) {
        let logit = f32::cast_from(logits[first + token]);
        if logit > own_highest {
            own_second = own_highest;
            own_highest = logit;
            own_index = token as u32;
        } else if logit > own_second {
            own_second = logit;
        }
    }
    highest[unit] = own_highest;
    second[unit] = own_second;
    index[unit] = own_index;
    sync_cube();
    #[unroll]
    for halving in 1..=UNITS.ilog2() {
        let half = comptime!(UNITS >> halving);
        if unit < half {
            let (ours, theirs) = (highest[unit], highest[unit + half]);
            let (our_second, their_second) = (second[unit], second[unit + half]);
            let lower = index[unit + half] < index[unit];
            if theirs > ours || (theirs == ours && lower) {
                highest[unit] = theirs;
                index[unit] = index[unit + half];
                second[unit] = max(their_second, ours);
            } else {
                second[unit] = max(our_second, theirs);
            }
        }
        sync_cube();
    }
    let best = highest[0];
    let mut sum = 0.0f32;
    let mut weighed = 0.0f32;
    for token in range_stepped(unit, tokens, UNITS) {
        let below = f32::cast_from(logits[first + token]) - best;
        let share = below.exp();
        sum += share;
        // A logit of −∞ has no share.
        if share > 0.0f32 {
            weighed += share * below;
        }
    }
    let sum = sum_over_cube(sum);
    let weighed = sum_over_cube(weighed);
    if unit == 0 {
        let at = row * SCORES;
        out[at] = f32::cast_from(index[0]);
        out[at + 1] = best;
        out[at + 2] = second[0];
        out[at + 3] = best + sum.ln();
        out[at + 4] = sum.ln() - weighed / sum;
    }
}

const LOWEST: f32 = f32::MIN;
