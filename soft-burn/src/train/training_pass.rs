//! Forward pass of one micro-batch in training, with layer dropout.
//!
//! States of all rows are concatenated without padding; only attention pads rows, without kernels of
//! its own. This equals one packed sequence with block-diagonal attention, without scores between rows.

use std::ops::Range;

use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor};
use soft_core::{Batch, Exit, MicroBatch};

use crate::error::Error;
use crate::model::block::Residual;
use crate::model::llama::Llama;
use crate::ops::compilation::compiles_kernels;
use crate::ops::packed_attention::Pass;
use crate::ops::transfers::upload_indices;
use crate::train::layer_dropout::LayerDropout;
use crate::train::targets::Targets;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Skipping {
    pub dropout: LayerDropout,
    pub at: MicroBatch,
}

/// A micro-batch on the device of a model.
pub(crate) struct TrainingPass<'a> {
    model: &'a Llama,
    batch: &'a Batch,
    pass: Pass,
    skipping: Option<Skipping>,
    /// The targets, and their positions among the states.
    pub targets: Targets,
}

impl<'a> TrainingPass<'a> {
    /// The pass of `batch`, and its embedded tokens, `[n, d_model]`.
    ///
    /// # Errors
    /// When a token is outside the vocabulary.
    pub fn new(
        model: &'a Llama,
        batch: &'a Batch,
        skipping: Option<Skipping>,
    ) -> Result<(Self, Tensor<2>), Error> {
        batch.check_vocabulary(model.config.vocab)?;
        let padding = padding(batch.tokens().len(), &model.device());
        let tokens = batch.tokens().iter().map(|&token| token.into());
        let tokens = model.indices(tokens.chain(std::iter::repeat_n(0, padding)));
        let states = model.model.embed_tokens.weight.val().select(0, tokens);
        let mut lengths = batch.lengths().to_vec();
        if padding > 0 {
            // A row of its own, without targets.
            lengths.push(padding);
        }
        let pass = Self {
            model,
            batch,
            pass: model.whole_rows(&lengths),
            skipping,
            targets: Targets::new(model, batch, &batch.starts()),
        };
        Ok((pass, states))
    }

    /// Runs states `[n, d_model]` through the blocks of `range`.
    pub fn blocks(&self, states: Tensor<2>, range: Range<usize>) -> Tensor<2> {
        let states = range.fold(Residual::new(states), |states, layer| {
            let block = &self.model.model.layers[layer];
            let kept = self.kept(layer);
            if kept.len() == self.batch.lengths().len() {
                return block.forward(states, &self.pass, None);
            }
            if kept.is_empty() {
                return states;
            }
            let states = states.sum();
            let (indices, pass) = self.part(&kept);
            let x = states.clone().select(0, indices.clone());
            let updated = block.forward(Residual::new(x.clone()), &pass, None).sum();
            let op = IndexingUpdateOp::Add;
            Residual::new(states.select_assign(0, indices, updated - x, op))
        });
        states.sum()
    }

    /// The supervised states at `exit`, `[targets, d_model]`, of all states.
    pub fn at_exit(&self, states: &Tensor<2>, exit: Exit) -> Tensor<2> {
        let states = self
            .model
            .through_exit_block(states.clone(), exit, &self.pass);
        self.targets.among(states)
    }

    fn kept(&self, layer: usize) -> Vec<usize> {
        let rows = 0..self.batch.lengths().len();
        match self.skipping {
            None => rows.collect(),
            Some(Skipping { dropout, at }) => {
                let depth = self.model.config.n_layers;
                rows.filter(|&row| !dropout.drops(at, (layer, depth), row))
                    .collect()
            }
        }
    }

    /// The indices of the states of some rows, and a pass of these rows alone.
    fn part(&self, rows: &[usize]) -> (Tensor<1, Int>, Pass) {
        let (starts, lengths) = (self.batch.starts(), self.batch.lengths());
        let states = |&row: &usize| starts[row]..starts[row] + lengths[row];
        let indices = rows.iter().flat_map(states).map(|state| state as i64);
        let lengths: Vec<_> = rows.iter().map(|&row| lengths[row]).collect();
        (self.model.indices(indices), self.model.whole_rows(&lengths))
    }
}

/// States to add to a pass of `states`, so that batches of many lengths share compiled kernels:
/// products are specialized for what divides their sizes.
fn padding(states: usize, device: &Device) -> usize {
    if compiles_kernels(device) {
        states.next_multiple_of(BUCKET) - states
    } else {
        0
    }
}

const BUCKET: usize = 64;

impl Llama {
    /// An index tensor on the model's device.
    pub(crate) fn indices(&self, values: impl Iterator<Item = i64>) -> Tensor<1, Int> {
        let values: Vec<i64> = values.collect();
        let shape = [values.len()];
        upload_indices(values, shape, &self.device())
    }
}
