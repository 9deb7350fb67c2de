//! Heads of single exits, for SFT+ICT.

use burn::module::Module;
use soft_core::Exit;

use crate::model::layers::Projection;

/// Prefix of the heads of single exits.
pub(crate) const EXIT_HEADS: &str = "exit_heads.";

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

    /// Which of the heads serves `exit`; none when the shared one does.
    pub fn index(&self, exit: Exit) -> Option<usize> {
        self.exits.iter().position(|&candidate| candidate == exit)
    }

    pub fn get(&self, exit: Exit) -> Option<&Projection> {
        self.heads.get(self.index(exit)?)
    }
}
