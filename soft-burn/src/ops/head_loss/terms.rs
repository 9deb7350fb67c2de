//! Inputs and results of the head loss.

use burn::tensor::{Device, Int, Tensor};

use crate::ops::transfers::{Numbers, upload};

/// States of one or several exits at the same positions, and their targets.
pub(crate) struct Predictions {
    /// Normalized states, ordered by position and then by exit: `[n · exits, d_model]`.
    pub states: Tensor<2>,
    /// The target token of each position, `[n]`.
    pub tokens: Tensor<1, Int>,
    /// Loss factors of each exit.
    pub terms: Vec<Term>,
    /// Teacher for distillation, if any.
    pub teacher: Option<Teacher>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Term {
    /// Factor of the cross-entropy with the target.
    pub hard: f32,
    /// Factor of T² times the divergence from the teacher.
    pub soft: f32,
}

/// The full model at the same positions.
#[derive(Clone)]
pub(crate) struct Teacher {
    /// Its normalized states, `[n, d_model]`.
    pub states: Tensor<2>,
    /// Its head, `[vocab, d_model]`.
    pub weight: Tensor<2>,
    /// Divisor of the logits of both the teacher and the exit.
    pub temperature: f64,
}

pub(crate) struct HeadGradients {
    /// Cross-entropy of each exit in nats, unscaled, summed over positions.
    pub nats: Numbers,
    /// Divergence of each exit from the teacher in nats at its temperature, unscaled, summed over
    /// positions; 0 for exits without a soft term, none without a teacher.
    pub divergence: Numbers,
    /// Gradient of the scaled losses with respect to the states, `[n · exits, d_model]`.
    pub states: Tensor<2>,
    /// The same with respect to the head, `[vocab, d_model]`, if these exits train it.
    pub weight: Option<Tensor<2>>,
}

/// Losses of a chunk of logits, unscaled.
pub(crate) struct ChunkLosses {
    /// Cross-entropy in nats, `[positions, exits]`.
    pub nats: Tensor<2>,
    /// Divergence from the teacher in nats, the same; 0 for exits without a soft term.
    pub divergence: Option<Tensor<2>>,
    /// Gradient of the scaled losses with respect to the logits, `[positions · exits, vocab]`.
    pub gradient: Tensor<2>,
}

/// The loss factors of every exit on the device.
pub(crate) struct Scales {
    /// Those of the cross-entropies, then of the divergences, `[2, exits]`.
    pub on_device: Tensor<2>,
    /// Divisor of the logits of both the teacher and the exits; 1 without a teacher.
    pub temperature: f64,
}

impl Scales {
    pub fn new(terms: &[Term], temperature: f64, device: &Device) -> Self {
        let hard = terms.iter().map(|term| term.hard);
        let values = hard.chain(terms.iter().map(|term| term.soft)).collect();
        Self {
            on_device: upload(values, [2, terms.len()], device),
            temperature,
        }
    }

    pub fn exits(&self) -> usize {
        self.on_device.dims()[1]
    }

    /// The factor of each row's exit, `[rows, 1]`, for rows ordered by position and then by exit:
    /// of the cross-entropies for `kind` 0, of the divergences for 1.
    pub fn per_row(&self, kind: usize, rows: usize) -> Tensor<2> {
        let of_exits = self.on_device.clone().narrow(0, kind, 1);
        let repeated = of_exits.repeat_dim(0, rows / self.exits());
        repeated.reshape([rows, 1])
    }
}
