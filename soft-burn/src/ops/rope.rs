//! Rotary position embedding in the rotate-half layout of Hugging Face checkpoints.
//!
//! Position p rotates the pair (x_i, x_{i+d/2}) of a head by the angle p · f_i. Source: Su et al.,
//! RoFormer (arXiv 2104.09864). Angles, sines and cosines are computed in f32 like the reference,
//! since the rounding of large angles is visible in the logits.

use burn::tensor::{Device, Tensor};

use crate::dtype::in_f32;
use crate::ops::transfers::upload;

/// The frequencies of a rotary embedding.
#[derive(Clone, Debug)]
pub(crate) struct Rotary {
    /// Of each pair of a head, in radians per position, `[head_dim / 2]`.
    pub frequencies: Vec<f32>,
    /// Factor of cosines and sines: 1, but with YaRN.
    pub scale: f32,
}

impl From<Vec<f32>> for Rotary {
    fn from(frequencies: Vec<f32>) -> Self {
        Self {
            frequencies,
            scale: 1.0,
        }
    }
}

/// Cosines and sines for one forward pass, each `[rows or 1, 1, seq, head_dim / 2]`.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl Rotation {
    /// For rows whose `seq` positions start at `starts`; a single start applies to all rows.
    pub(crate) fn new(rotary: &Rotary, starts: &[usize], seq: usize, device: &Device) -> Self {
        let positions = starts.iter().flat_map(|&start| start..start + seq);
        let (cos, sin) = cosines_and_sines(rotary, positions);
        let shape = [starts.len(), 1, seq, rotary.frequencies.len()];
        Self {
            cos: upload(cos, shape, device),
            sin: upload(sin, shape, device),
        }
    }

    /// Rotates `x`, `[rows, heads, seq, head_dim]`.
    pub(crate) fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        #[cfg(feature = "tch")]
        if let Some(out) = crate::ops::torch::rotate(&x, &self.cos, &self.sin) {
            return out;
        }
        in_f32(x, |x| self.rotate(x))
    }

    fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        let half = x.dims()[3] / 2;
        let first = x.clone().narrow(3, 0, half);
        let second = x.narrow(3, half, half);
        let (cos, sin) = (self.cos.clone(), self.sin.clone());
        let rotated_first = first.clone() * cos.clone() - second.clone() * sin.clone();
        let rotated_second = second * cos + first * sin;
        Tensor::cat(vec![rotated_first, rotated_second], 3)
    }
}

/// Cosines and sines of every position's angles, `[positions, head_dim / 2]` each.
pub(crate) fn cosines_and_sines(
    rotary: &Rotary,
    positions: impl Iterator<Item = usize>,
) -> (Vec<f32>, Vec<f32>) {
    let (frequencies, scale) = (&rotary.frequencies, rotary.scale);
    let of_position = |position| frequencies.iter().map(move |it| position as f32 * it);
    let angles = positions.flat_map(of_position);
    angles
        .map(|angle: f32| (angle.cos() * scale, angle.sin() * scale))
        .unzip()
}
