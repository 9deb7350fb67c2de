//! Inputs and results of the head loss.

use burn::tensor::{Int, Tensor};

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

/// Which exits train the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadLearns {
    /// None; the head is frozen.
    Nothing,
    /// All exits.
    FromAll,
    /// Only the last exit.
    FromTheLastExit,
}

pub(crate) struct HeadGradients {
    /// Cross-entropy of each exit in nats, unscaled, summed over positions.
    pub nats: Vec<f64>,
    /// Divergence of each exit from the teacher in nats at its temperature, unscaled, summed over
    /// positions; 0 for exits without a soft term.
    pub divergence: Vec<f64>,
    /// Gradient of the scaled losses with respect to the states, `[n · exits, d_model]`.
    pub states: Tensor<2>,
    /// The same with respect to the head, `[vocab, d_model]`, if it is trained.
    pub weight: Option<Tensor<2>>,
}
