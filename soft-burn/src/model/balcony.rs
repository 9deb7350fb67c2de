//! Blocks and norms of single exits, in addition to those of the model.
//!
//! Balcony adds one decoder block and a norm to every intermediate exit of an unchanged model. They
//! are trained to predict the output of the full depth; the head is shared. The gradient of such an
//! exit stops at its own block and does not train the preceding blocks, whether these are frozen or
//! trained by the full depth. An exit at depth n with its own block is an ordinary LLaMA of n + 1
//! blocks, which [`Llama::extract`] returns.
//!
//! Source: Jamialahmadi et al., *Balcony* (arXiv 2503.05005). Differs from the Sorted LLaMA paper,
//! which adds nothing to a model. Block and norm start as copies of the last block and the final
//! norm.

use burn::tensor::Tensor;
use soft_core::{Exit, Exits};

use crate::error::Error;
use crate::model::block::Residual;
use crate::model::exit_blocks::{EXIT_BLOCKS, ExitBlock, ExitBlocks};
use crate::model::layers::RmsNorm;
use crate::model::llama::Llama;
use crate::ops::packed_attention::Pass;

pub(crate) const FINAL_NORM: &str = "model.norm.weight";

impl Llama {
    /// Gives every intermediate exit copies of the last block and the final norm.
    ///
    /// # Errors
    /// When the last of `exits` is not the full model.
    pub fn with_exit_blocks(mut self, exits: &Exits) -> Result<Self, Error> {
        let exits = exits.clone().for_depth(self.config.n_layers)?;
        let intermediate: Vec<_> = exits.iter().filter(|&exit| exit != exits.last()).collect();
        let copy = |exit: &Exit| {
            let mut block = self.model.layers.last().cloned();
            // Its window is that of the next block, so that the extracted exit has the same.
            if let Some(attention) = block.as_mut().and_then(|block| block.self_attn.as_mut()) {
                attention.window = self.config.architecture.window_of(exit.depth());
            }
            let norm = self.model.norm.clone();
            ExitBlock { block, norm }
        };
        self.exit_blocks = ExitBlocks {
            blocks: intermediate.iter().map(copy).collect(),
            exits: intermediate,
        };
        Ok(self)
    }

    /// The exits with their own block and norm, or norm alone, shallowest first.
    pub fn exits_with_blocks(&self) -> &[Exit] {
        &self.exit_blocks.exits
    }

    /// The norm before the head at `exit`.
    pub(crate) fn norm_of(&self, exit: Exit) -> &RmsNorm {
        let own = self.exit_blocks.get(exit);
        own.map_or(&self.model.norm, |own| &own.norm)
    }

    /// The name of the parameter of that norm.
    pub(crate) fn norm_name(&self, exit: Exit) -> String {
        match self.exit_blocks.index(exit) {
            None => FINAL_NORM.to_owned(),
            Some(index) => format!("{EXIT_BLOCKS}{index}.norm.weight"),
        }
    }

    /// Runs states `[n, d_model]` of full rows through the exit's own block, if it has one. The
    /// gradient stops before the exit's own parts.
    pub(crate) fn through_exit_block(
        &self,
        states: Tensor<2>,
        exit: Exit,
        pass: &Pass,
    ) -> Tensor<2> {
        if self.exit_blocks.get(exit).is_none() {
            return states;
        }
        let states = Residual::new(states.detach());
        match self.exit_blocks.block(exit) {
            None => states.sum(),
            Some((_, block)) => block.forward(states, pass, None).sum(),
        }
    }
}
