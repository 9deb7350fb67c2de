//! The supervised positions of a batch.

use burn::tensor::{Int, Tensor};
use soft_core::Batch;

use crate::model::llama::Llama;

/// The positions of a batch that carry targets, on the device.
#[derive(Clone, Debug)]
pub struct Targets {
    /// Index of each predicting position in the flattened batch, `[n]`.
    positions: Tensor<1, Int>,
    /// The token each must predict, `[n]`.
    tokens: Tensor<1, Int>,
}

impl Targets {
    /// Number of targets.
    pub fn len(&self) -> usize {
        self.tokens.dims()[0]
    }

    /// Whether there is nothing to predict.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The targets of `batch` on the model's device, when its rows begin at these places among the
    /// states.
    pub(crate) fn new(model: &Llama, batch: &Batch, firsts: &[usize]) -> Self {
        let targets = || batch.targets().iter();
        let position = |target: &soft_core::Target| firsts[target.row] + target.position;
        Self {
            positions: model.indices(targets().map(|target| position(target) as i64)),
            tokens: model.indices(targets().map(|target| target.token.into())),
        }
    }

    /// The states that predict, `[targets, d_model]`, out of `[n, d_model]`.
    pub(crate) fn among(&self, states: Tensor<2>) -> Tensor<2> {
        states.select(0, self.positions.clone())
    }

    /// The same out of `[batch, seq, d_model]`.
    pub(crate) fn states(&self, hidden: &Tensor<3>) -> Tensor<2> {
        let [rows, seq, d_model] = hidden.dims();
        self.among(hidden.clone().reshape([rows * seq, d_model]))
    }

    /// The token each must predict, `[n]`.
    pub(crate) fn tokens(&self) -> Tensor<1, Int> {
        self.tokens.clone()
    }
}
