//! Coefficients and state of one AdamW step.

use burn::tensor::Tensor;

#[derive(Clone, Copy, Debug)]
pub(crate) struct AdamWStep {
    /// Factor applied to the gradient first.
    pub scale: f64,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    pub rate: f64,
    /// Decoupled weight decay.
    pub decay: f32,
    /// Steps of this parameter, including this one.
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
