//! Heads of single exits, for SFT+ICT.

use burn::module::Module;
use soft_core::Exit;

use crate::model::layers::Projection;

pub(crate) const EXIT_HEADS: &str = "exit_heads.";

/// The exits with their own head, and the heads in the same order.
#[derive(Module, Debug)]
pub(crate) struct ExitHeads {
    pub heads: Vec<Projection>,
    #[module(skip)]
    pub exits: Vec<Exit>,
}

impl ExitHeads {
    /// No exit has its own head.
    pub fn none() -> Self {
        Self {
            heads: Vec::new(),
            exits: Vec::new(),
        }
    }

    /// Index of the head of `exit`; `None` when it uses the shared head.
    pub fn index(&self, exit: Exit) -> Option<usize> {
        self.exits.iter().position(|&candidate| candidate == exit)
    }

    pub fn get(&self, exit: Exit) -> Option<&Projection> {
        self.heads.get(self.index(exit)?)
    }
}
