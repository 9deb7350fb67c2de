//! Gradient checkpointing: only the input of every block is kept, and each block runs again in the
//! backward pass.
//!
//! Source: Chen et al., *Training Deep Nets with Sublinear Memory Cost* (arXiv 1604.06174), with
//! blocks as segments. The activations of one block are held at a time, for one more forward pass
//! in all.

use std::collections::BTreeMap;
use std::ops::Range;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use soft_core::{Batch, Exit};

use crate::error::Error;
use crate::model::llama::Llama;
use crate::model::parameters::named_gradients;
use crate::ops::seed::seed;
use crate::train::gradients::NamedGradients;
use crate::train::training_pass::{Skipping, TrainingPass};

/// The gradient of the loss with respect to the states of an exit.
pub(crate) struct StateGradient {
    pub exit: Exit,
    /// The supervised states, `[n, d_model]`.
    pub hidden: Tensor<2>,
    /// Their gradient.
    pub gradient: Tensor<2>,
    /// With gradient checkpointing, all states of the exit, `[states, d_model]`, from which
    /// `hidden` was computed.
    pub states: Option<Tensor<2>>,
}

/// A forward pass without autodiff that keeps the inputs of the blocks.
pub(crate) struct Recomputation<'a> {
    pass: TrainingPass<'a>,
    /// `[states, d_model]` of every block that ran.
    inputs: Vec<Tensor<2>>,
}

impl<'a> Recomputation<'a> {
    /// For a model without autodiff.
    pub fn new(
        model: &'a Llama,
        batch: &'a Batch,
        skipping: Option<Skipping>,
    ) -> Result<Self, Error> {
        let (pass, _) = TrainingPass::new(model, batch, skipping)?;
        let inputs = Vec::new();
        Ok(Self { pass, inputs })
    }

    /// States without autodiff through the blocks of `range`.
    pub fn blocks(&mut self, states: Tensor<2>, range: Range<usize>) -> Tensor<2> {
        range.fold(states, |states, layer| {
            self.inputs.push(states.clone());
            self.pass.blocks(states, layer..layer + 1)
        })
    }

    /// Adds the gradients of all parameters below the exits: `pass` is of `model`, the one with
    /// autodiff, and `embedded` its embedded tokens.
    pub fn backward(
        self,
        model: &Llama,
        (pass, embedded): (&TrainingPass, Tensor<2>),
        exits: Vec<StateGradient>,
        gradients: &mut NamedGradients,
    ) {
        let mut by_depth = BTreeMap::new();
        for at in exits {
            let mut found = seed(at.hidden, at.gradient).backward();
            let into_states = at.states.and_then(|states| states.grad_remove(&mut found));
            by_depth.extend(into_states.map(|gradient| (at.exit.depth(), gradient)));
            gradients.add_all(named_gradients(model, &mut found));
        }
        let learns = Learns::of(model);
        let mut flowing: Option<Tensor<2>> = None;
        for (layer, input) in self.inputs.into_iter().enumerate().rev() {
            flowing = [flowing, by_depth.remove(&(layer + 1))]
                .into_iter()
                .flatten()
                .reduce(|a, b| a + b);
            let Some(gradient) = flowing.take() else {
                continue;
            };
            let input = Tensor::from_inner(input).set_require_grad(learns.below(layer));
            let output = pass.blocks(input.clone(), layer..layer + 1);
            if !output.is_tracked() {
                return;
            }
            let mut found = seed(output, gradient).backward();
            flowing = input.grad_remove(&mut found);
            gradients.add_all(named_gradients(model, &mut found));
        }
        if let Some(gradient) = flowing.filter(|_| embedded.is_tracked()) {
            let mut found = seed(embedded, gradient).backward();
            gradients.add_all(named_gradients(model, &mut found));
        }
    }
}

/// Which parameters are trained.
pub(crate) struct Learns {
    embedding: bool,
    /// The first block with a trained parameter.
    first_block: usize,
}

impl Learns {
    pub fn of(model: &Llama) -> Self {
        let blocks = &model.model.layers;
        Self {
            embedding: is_trained(&model.model.embed_tokens),
            first_block: blocks.iter().position(is_trained).unwrap_or(blocks.len()),
        }
    }

    /// Whether a gradient with respect to the states after `depth` blocks is of use.
    pub fn below(&self, depth: usize) -> bool {
        self.embedding || depth > self.first_block
    }
}

fn is_trained<M: Module>(module: &M) -> bool {
    struct Find(bool);
    impl ModuleVisitor for Find {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0 |= param.is_require_grad();
        }
    }
    let mut find = Find(false);
    module.visit(&mut find);
    find.0
}
