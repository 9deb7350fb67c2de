//! Heads of single exits, beside the shared one.
//!
//! SoFT reads every sub-model through the model's own head. The baseline SFT+ICT (Early-Exit)
//! freezes the blocks and trains one more head per intermediate exit; each starts as a copy of
//! the shared head. The final norm stays shared and frozen: the paper counts (|B| − 1)·d·V added
//! parameters, which leaves no room for norms.

use burn::module::{Module, Param};
use soft_core::{Exit, Exits};

use crate::Llama;
use crate::layers::Projection;

/// The exits that have a head of their own, and those heads in the same order.
#[derive(Module, Debug)]
pub(crate) struct ExitHeads {
    pub heads: Vec<Projection>,
    #[module(skip)]
    pub exits: Vec<Exit>,
}

impl ExitHeads {
    /// No exit has a head of its own.
    pub fn none() -> Self {
        Self {
            heads: Vec::new(),
            exits: Vec::new(),
        }
    }

    pub fn get(&self, exit: Exit) -> Option<&Projection> {
        let index = self.exits.iter().position(|&candidate| candidate == exit)?;
        self.heads.get(index)
    }
}

impl Llama {
    /// Gives every intermediate exit a head of its own, a copy of the shared one; the full model
    /// keeps the shared head.
    ///
    /// # Errors
    /// When the last of `exits` is not the full model.
    pub fn with_exit_heads(mut self, exits: &Exits) -> Result<Self, crate::Error> {
        let exits = exits.clone().for_depth(self.config.n_layers)?;
        let intermediate: Vec<_> = exits.iter().filter(|&exit| exit != exits.last()).collect();
        let shared = self.head_weight().detach();
        let copy = |_: &Exit| Projection {
            weight: Param::from_tensor(shared.clone()),
        };
        self.exit_heads = ExitHeads {
            heads: intermediate.iter().map(copy).collect(),
            exits: intermediate,
        };
        Ok(self)
    }

    /// The exits that have a head of their own, shallowest first.
    pub fn exits_with_heads(&self) -> &[Exit] {
        &self.exit_heads.exits
    }

    /// Freezes everything but the heads of single exits.
    pub(crate) fn freeze_all_but_exit_heads(mut self) -> Self {
        self.model = self.model.freeze();
        self.lm_head = self.lm_head.map(Module::freeze);
        self
    }
}
