//! RMSNorm and the SwiGLU gate over slices. See `layers` for formulas and sources.

use pulp::Arch;

use super::exp::exp;
use super::linear::Rows;

pub(crate) fn rms_norm(arch: Arch, x: Rows, weight: &[f32], eps: f32, out: &mut [f32]) {
    for (row, out) in out.chunks_mut(x.width).enumerate() {
        let x = x.row(row);
        arch.dispatch(
            #[inline(always)]
            || {
                let scale = 1.0 / (short_sum_of_squares(x) / x.len() as f32 + eps).sqrt();
                for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                    *out = x * scale * weight;
                }
            },
        );
    }
}

/// Uses eight partial sums, which compilers keep in one vector.
#[inline(always)]
fn short_sum_of_squares(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<8>();
    let mut sums = [0.0f32; 8];
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += x * x;
        }
    }
    let rest: f32 = rest.iter().map(|x| x * x).sum();
    sums.iter().sum::<f32>() + rest
}

/// `gate = silu(gate) · up`.
pub(crate) fn gate(arch: Arch, gate: &mut [f32], up: &[f32]) {
    arch.dispatch(
        #[inline(always)]
        || {
            for (gate, up) in gate.iter_mut().zip(up) {
                *gate = *gate / (1.0 + exp(-*gate)) * up;
            }
        },
    );
}

pub(crate) fn add(arch: Arch, x: &mut [f32], y: &[f32]) {
    arch.dispatch(
        #[inline(always)]
        || {
            for (x, y) in x.iter_mut().zip(y) {
                *x += y;
            }
        },
    );
}
