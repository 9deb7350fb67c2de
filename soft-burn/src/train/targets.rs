//! The supervised positions of a batch.

use burn::tensor::{Int, Tensor};
use soft_core::Batch;

use crate::model::llama::Llama;

/// The supervised positions of a batch and their targets, on the device.
#[derive(Clone, Debug)]
pub struct Targets {
    /// Index of each supervised position in the flattened batch, `[n]`.
    positions: Tensor<1, Int>,
    /// The target token of each position, `[n]`.
    tokens: Tensor<1, Int>,
}

impl Targets {
    /// Number of targets.
    pub fn len(&self) -> usize {
        self.tokens.dims()[0]
    }

    /// Whether there are no targets.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The targets of `batch` on the device; row r starts at index `firsts[r]` of the states.
    pub(crate) fn new(model: &Llama, batch: &Batch, firsts: &[usize]) -> Self {
        let targets = || batch.targets().iter();
        let position = |target: &soft_core::Target| firsts[target.row] + target.position;
        Self {
            positions: model.indices(targets().map(|target| position(target) as i64)),
            tokens: model.indices(targets().map(|target| target.token.into())),
        }
    }

    /// Selects the supervised states, `[targets, d_model]`, from `[n, d_model]`.
    pub(crate) fn among(&self, states: Tensor<2>) -> Tensor<2> {
        states.select(0, self.positions.clone())
    }

    /// The same from `[batch, seq, d_model]`.
    pub(crate) fn states(&self, hidden: &Tensor<3>) -> Tensor<2> {
        let [rows, seq, d_model] = hidden.dims();
        self.among(hidden.clone().reshape([rows * seq, d_model]))
    }

    pub(crate) fn tokens(&self) -> Tensor<1, Int> {
        self.tokens.clone()
    }
}
