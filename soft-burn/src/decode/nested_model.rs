//! `NestedModel` for LLaMA: embedding, blocks with or without a cache, logits of an exit.

use std::ops::Range;

use burn::tensor::{Int, Tensor};
use soft_core::{Exit, NestedModel, Past};

use crate::error::Error;
use crate::model::block::Residual;
use crate::model::llama::Llama;
use crate::ops::kv_store::KvStore;

impl NestedModel for Llama {
    type Tokens = Tensor<2, Int>;
    type Hidden = Tensor<3>;
    type Logits = Tensor<3>;
    type KvStore = KvStore;
    type Error = Error;

    fn depth(&self) -> usize {
        self.config.n_layers
    }

    fn exit_blocks(&self) -> usize {
        self.exit_blocks.blocks.len()
    }

    fn exit_block(&self, exit: Exit) -> Option<usize> {
        let (own, _) = self.exit_blocks.block(exit)?;
        Some(self.config.n_layers + own)
    }

    fn embed(&self, tokens: &Tensor<2, Int>) -> Result<Tensor<3>, Error> {
        let [rows, seq] = tokens.dims();
        let flat = tokens.clone().reshape([rows * seq]);
        let states = self.model.embed_tokens.weight.val().select(0, flat);
        Ok(states.reshape([rows, seq, self.config.d_model]))
    }

    fn blocks(
        &self,
        hidden: Tensor<3>,
        range: Range<usize>,
        past: Option<Past<KvStore>>,
    ) -> Result<Tensor<3>, Error> {
        self.check_blocks(&range)?;
        if let Some(past) = past {
            return self.packed_blocks(hidden, range, past);
        }
        let [rows, seq, d_model] = hidden.dims();
        let pass = self.whole_rows(&vec![seq; rows]);
        let states = hidden.reshape([rows * seq, d_model]);
        let blocks = range.filter_map(|block| self.block(block));
        let states = blocks.fold(Residual::new(states), |states, block| {
            block.forward(states, &pass, None)
        });
        Ok(states.sum().reshape([rows, seq, d_model]))
    }

    /// The gradient of an exit with parts of its own stops before them.
    fn at_exit(
        &self,
        hidden: Tensor<3>,
        exit: Exit,
        past: Option<Past<KvStore>>,
    ) -> Result<Tensor<3>, Error> {
        match (self.exit_blocks.get(exit), self.exit_block(exit)) {
            (None, _) => Ok(hidden),
            (Some(_), None) => Ok(hidden.detach()),
            (Some(_), Some(block)) => self.blocks(hidden.detach(), block..block + 1, past),
        }
    }

    fn logits(&self, hidden: &Tensor<3>, exit: Exit) -> Result<Tensor<3>, Error> {
        let [rows, seq, d_model] = hidden.dims();
        let states = hidden.clone().reshape([rows * seq, d_model]);
        let scores = self.head().logits(states, exit);
        Ok(scores.reshape([rows, seq, self.config.vocab]))
    }
}
