//! The numbers of a step of AdamW and what it moves.

use burn::tensor::Tensor;

/// The numbers of one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdamWStep {
    /// Gradients are multiplied by it first.
    pub scale: f64,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    pub rate: f64,
    /// Decoupled weight decay.
    pub decay: f32,
    /// Steps this parameter took part in, this one counted.
    pub time: usize,
}

/// A parameter and its moments, flattened.
pub(crate) struct Moving {
    pub value: Tensor<1>,
    /// Running mean of the gradient.
    pub first: Tensor<1>,
    /// Running mean of the squared gradient.
    pub second: Tensor<1>,
}
