//! Inputs and results of the head loss.

use burn::tensor::{Int, Tensor};

/// States of one or several exits at the same positions, and what they must predict.
pub(crate) struct Predictions {
    /// Normed states, position by position and in each exit by exit: `[n · exits, d_model]`.
    pub states: Tensor<2>,
    /// The token of each position, `[n]`.
    pub tokens: Tensor<1, Int>,
    /// Factors of the losses of each exit.
    pub terms: Vec<Term>,
    /// Teacher for distillation, if any.
    pub teacher: Option<Teacher>,
}

/// What the losses of one exit are multiplied by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Term {
    /// The cross-entropy with the target.
    pub hard: f32,
    /// T² times the divergence from the teacher.
    pub soft: f32,
}

/// The full model at the same positions.
#[derive(Clone)]
pub(crate) struct Teacher {
    /// Its normed states, `[n, d_model]`.
    pub states: Tensor<2>,
    /// Its head, `[vocab, d_model]`.
    pub weight: Tensor<2>,
    /// Both sides' logits are divided by it.
    pub temperature: f64,
}

/// What moves the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadLearns {
    /// It stays.
    Nothing,
    /// All exits.
    FromAll,
    /// The last of the exits.
    FromTheLastExit,
}

/// What [`Predictions`] cost, and what would lower it.
pub(crate) struct HeadGradients {
    /// Cross-entropy of each exit in nats, not scaled, summed over positions.
    pub nats: Vec<f64>,
    /// Divergence of each exit from the teacher in nats at its temperature, likewise; 0 where
    /// nothing is soft.
    pub divergence: Vec<f64>,
    /// Gradient of the scaled losses into the states, `[n · exits, d_model]`.
    pub states: Tensor<2>,
    /// The same into the head, `[vocab, d_model]`, when it learns.
    pub weight: Option<Tensor<2>>,
}
