//! Blocks and norms of single exits, for Balcony.

use burn::module::Module;
use soft_core::Exit;

use crate::model::block::Block;
use crate::model::layers::RmsNorm;

pub(crate) const EXIT_BLOCKS: &str = "exit_blocks.";

/// An additional block and the norm before the head, or the norm alone.
#[derive(Module, Debug)]
pub(crate) struct ExitBlock {
    pub block: Option<Block>,
    pub norm: RmsNorm,
}

/// The exits with their own block and norm, and these in the same order.
#[derive(Module, Debug)]
pub(crate) struct ExitBlocks {
    pub blocks: Vec<ExitBlock>,
    #[module(skip)]
    pub exits: Vec<Exit>,
}

impl ExitBlocks {
    /// No exit has its own block.
    pub fn none() -> Self {
        Self {
            blocks: Vec::new(),
            exits: Vec::new(),
        }
    }

    pub fn index(&self, exit: Exit) -> Option<usize> {
        self.exits.iter().position(|&candidate| candidate == exit)
    }

    pub fn get(&self, exit: Exit) -> Option<&ExitBlock> {
        self.blocks.get(self.index(exit)?)
    }

    /// The block of `exit`, and its index here.
    pub fn block(&self, exit: Exit) -> Option<(usize, &Block)> {
        let index = self.index(exit)?;
        Some((index, self.blocks.get(index)?.block.as_ref()?))
    }
}
