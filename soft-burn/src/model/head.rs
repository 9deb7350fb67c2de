//! Heads of single exits, in addition to the shared head.
//!
//! In SoFT all sub-models share the model's head. The baseline SFT+ICT (Early-Exit) freezes the
//! blocks and trains one additional head per intermediate exit, initialized with the shared head.
//! The final norm stays shared and frozen: the paper counts (|B| − 1)·d·V added parameters, which
//! excludes norms.

use burn::module::Param;
use burn::tensor::Tensor;
use soft_core::{Exit, Exits};

use crate::error::Error;
use crate::model::exit_heads::{EXIT_HEADS, ExitHeads};
use crate::model::layers::Projection;
use crate::model::llama::Llama;
use crate::ops::linear::project;

/// Norm and head of a model: the shared head, or an exit's own.
#[derive(Clone, Copy, Debug)]
pub struct LlamaHead<'a>(&'a Llama);

impl LlamaHead<'_> {
    /// Maps hidden states `[n, d_model]`, before the norm, to scores `[n, vocab]`. For an exit with
    /// its own block, the states are the output of that block.
    pub fn logits(&self, states: Tensor<2>, exit: Exit) -> Tensor<2> {
        let normed = self.0.norm_of(exit).forward(states);
        match self.0.exit_heads.get(exit) {
            Some(head) => head.forward(normed),
            None => project(normed, self.0.head_weight()),
        }
    }
}

impl Llama {
    /// The model's norm and heads.
    pub fn head(&self) -> LlamaHead<'_> {
        LlamaHead(self)
    }

    /// The shared head, `[vocab, d_model]`: the embedding when tied.
    pub(crate) fn head_weight(&self) -> Tensor<2> {
        self.head_parameter(None).1
    }

    /// The head at this index, or the shared head for `None`, with the name of its parameter.
    pub(crate) fn head_parameter(&self, index: Option<usize>) -> (String, Tensor<2>) {
        match (index, &self.lm_head) {
            (Some(index), _) => {
                let name = format!("{EXIT_HEADS}{index}.weight");
                (name, self.exit_heads.heads[index].weight.val())
            }
            (None, Some(head)) => ("lm_head.weight".to_owned(), head.weight.val()),
            (None, None) => {
                let name = "model.embed_tokens.weight".to_owned();
                (name, self.model.embed_tokens.weight.val())
            }
        }
    }

    /// Gives every intermediate exit a copy of the shared head, which the full model keeps.
    ///
    /// # Errors
    /// When the last of `exits` is not the full model.
    pub fn with_exit_heads(mut self, exits: &Exits) -> Result<Self, Error> {
        let exits = exits.clone().for_depth(self.config.n_layers)?;
        let intermediate: Vec<_> = exits.iter().filter(|&exit| exit != exits.last()).collect();
        let shared = self.head_weight().detach();
        let copy = |_: &Exit| Projection::without_bias(Param::from_tensor(shared.clone()));
        self.exit_heads = ExitHeads {
            heads: intermediate.iter().map(copy).collect(),
            exits: intermediate,
        };
        Ok(self)
    }

    /// The exits with their own head, shallowest first.
    pub fn exits_with_heads(&self) -> &[Exit] {
        &self.exit_heads.exits
    }
}
