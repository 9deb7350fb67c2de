//! LLaMA with a sub-model at every depth.
//!
//! Sub-model f_n consists of the embedding, the first n blocks, the final norm and the head (Sorted
//! LLaMA, section 3). Architecture: Touvron et al., LLaMA 2 (arXiv 2307.09288), and transformers'
//! `modeling_llama`. A model holds no state such as a cache.

use std::ops::Range;

use burn::module::{Module, Param};
use burn::tensor::{Device, FloatDType, Int, Tensor};

use crate::dtype::DType;
use crate::error::Error;
use crate::model::block::Block;
use crate::model::config::LlamaConfig;
use crate::model::exit_blocks::ExitBlocks;
use crate::model::exit_heads::ExitHeads;
use crate::model::layers::{Embedding, Projection, RmsNorm};
use crate::model::placement::Placement;
use crate::model::rope;
use crate::ops::packed_attention::{Pass, PassShape};
use crate::ops::rope::Rotary;
use crate::ops::tensor_store::Span;
use crate::ops::transfers::upload_indices;

/// A LLaMA with a sub-model at every depth.
#[derive(Module, Debug)]
pub struct Llama {
    pub(crate) model: Body,
    /// The language-model head; `None` when tied to the embedding.
    pub(crate) lm_head: Option<Projection>,
    /// Heads of single exits, for SFT+ICT; empty for SoFT.
    pub(crate) exit_heads: ExitHeads,
    /// Blocks of single exits, for Balcony; empty for SoFT.
    pub(crate) exit_blocks: ExitBlocks,
    #[module(skip)]
    pub(crate) config: LlamaConfig,
}

/// Everything except the heads; called `model` in checkpoints.
#[derive(Module, Debug)]
pub(crate) struct Body {
    pub embed_tokens: Embedding,
    pub layers: Vec<Block>,
    pub norm: RmsNorm,
}

impl Llama {
    /// The same configuration without weights, to replace a model while its weights are changed.
    pub(crate) fn placeholder(&self) -> Self {
        Self {
            model: Body {
                embed_tokens: Embedding {
                    weight: Param::from_tensor(Tensor::zeros([1, 1], &self.device())),
                },
                layers: Vec::new(),
                norm: self.model.norm.clone(),
            },
            lm_head: None,
            exit_heads: ExitHeads::none(),
            exit_blocks: ExitBlocks::none(),
            config: self.config.clone(),
        }
    }

    /// The model's configuration.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The device of the weights; with autodiff for a model in training.
    pub fn device(&self) -> Device {
        self.model.embed_tokens.weight.val().device()
    }

    /// Concatenated rows of `seq` token ids as a tensor on the model's device, `[rows, seq]`.
    pub(crate) fn token_tensor(&self, tokens: &[u32], seq: usize) -> Result<Tensor<2, Int>, Error> {
        let vocab = self.config.vocab;
        if let Some(index) = tokens.iter().position(|&token| token as usize >= vocab) {
            let (row, position, token) = (index / seq, index % seq, tokens[index]);
            let outside = soft_core::BatchError::OutsideVocabulary {
                row,
                position,
                token,
                vocab,
            };
            return Err(outside.into());
        }
        let ids: Vec<i64> = tokens.iter().map(|&token| token.into()).collect();
        let shape = [tokens.len() / seq, seq];
        Ok(upload_indices(ids, shape, &self.device()))
    }

    pub(crate) fn rotary(&self) -> Rotary {
        let config = &self.config;
        rope::rotary(config.head_dim, config.rope_theta, &config.rope_scaling)
    }

    /// The data shared by all blocks when row i has `counts[i]` of the span's positions.
    pub(crate) fn pass(&self, counts: &[usize], span: &Span) -> Pass {
        let shape = PassShape {
            rotary: &self.rotary(),
            counts,
            span,
            window: self.config.architecture.window.map(|it| it.size),
        };
        Pass::new(shape, &self.device())
    }

    /// The pass of packed rows of these lengths, each from position 0.
    pub(crate) fn whole_rows(&self, lengths: &[usize]) -> Pass {
        let seq = lengths.iter().copied().max().unwrap_or(0);
        self.pass(lengths, &Span::new(vec![0; lengths.len()], seq))
    }

    /// Refuses anything but shared blocks or the block of a single exit.
    pub(crate) fn check_blocks(&self, range: &Range<usize>) -> Result<(), Error> {
        let (&Range { start, end }, depth) = (range, self.config.n_layers);
        let of_an_exit = start >= depth && range.len() == 1 && self.block(start).is_some();
        if start > end || end > depth && !of_an_exit {
            return Err(Error::NoSuchBlocks { start, end, depth });
        }
        Ok(())
    }

    /// The block of this index: a shared one or, from `n_layers` on, one of an exit.
    pub(crate) fn block(&self, index: usize) -> Option<&Block> {
        match index.checked_sub(self.config.n_layers) {
            None => self.model.layers.get(index),
            Some(own) => self.exit_blocks.blocks.get(own)?.block.as_ref(),
        }
    }

    /// Number of blocks with keys and values, shared and of exits.
    pub(crate) fn blocks_in_all(&self) -> usize {
        self.config.n_layers + self.exit_blocks.blocks.len()
    }
}

impl Llama {
    /// Device and number type of the model, for parts that are added to it.
    pub(crate) fn placement(&self) -> Placement {
        Placement {
            device: self.device(),
            dtype: self.dtype(),
        }
    }

    /// Number type of the weights.
    pub fn dtype(&self) -> DType {
        match FloatDType::from(self.model.norm.weight.val().dtype()) {
            FloatDType::BF16 => DType::Bf16,
            FloatDType::F16 => DType::F16,
            _ => DType::F32,
        }
    }
}
