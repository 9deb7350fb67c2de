//! Extracts a sub-model as a model of its own.
//!
//! Source: Sorted LLaMA, section 4.1, baseline "Extracted Fine-Tuning": the first n blocks, the
//! norm and the head are extracted and fine-tuned like any model. The result has no exits of its
//! own.

use soft_core::{Exit, Exits};

use crate::error::Error;
use crate::model::block::Halves;
use crate::model::exit_blocks::{ExitBlock, ExitBlocks};
use crate::model::exit_heads::ExitHeads;
use crate::model::llama::Llama;

impl Llama {
    /// The blocks up to `exit`, with the model's norm and the head of this exit.
    ///
    /// Its logits at full depth equal those of this model at `exit`. The exit's own head (SFT+ICT)
    /// becomes the model's, untied from the embedding. The exit's own block and norm (Balcony)
    /// become the last block and the final norm.
    ///
    /// # Errors
    /// When the exit is deeper than the model, or its block lacks attention or feed-forward, which
    /// no block of an ordinary model does.
    pub fn extract(mut self, exit: Exit) -> Result<Self, Error> {
        let depth = exit.depth();
        Exits::new([depth])?.check_within(self.config.n_layers)?;
        let own = self.exit_blocks.block(exit);
        if own.is_some_and(|(_, block)| block.halves() != Halves::Both) {
            return Err(Error::HalfBlock { exit: depth });
        }
        if let Some(head) = self.exit_heads.get(exit) {
            self.lm_head = Some(head.clone());
            self.config.tied = false;
        }
        let own = self.exit_blocks.get(exit).cloned();
        self.exit_heads = ExitHeads::none();
        self.exit_blocks = ExitBlocks::none();
        self.model.layers.truncate(depth);
        if let Some(ExitBlock { block, norm }) = own {
            self.model.layers.extend(block);
            self.model.norm = norm;
        }
        self.config.n_layers = self.model.layers.len();
        Ok(self)
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    #![allow(clippy::unwrap_used)] // tests fail by panicking

    use burn::tensor::{Int, Tensor};
    use soft_core::{DecodeSettings, Decoder, Mode, NestedModel, Prompt};

    use super::*;
    use crate::io::pretrained::SaveOptions;
    use crate::model::config::LlamaConfig;
    use crate::model::rope::RopeScaling;
    use crate::tests::test_device;

    fn model(tied: bool) -> Llama {
        let config = LlamaConfig {
            vocab: 17,
            d_model: 8,
            d_feed_forward: 12,
            n_layers: 4,
            n_heads: 2,
            n_kv_heads: 1,
            head_dim: 4,
            norm_eps: 1e-5,
            rope_theta: 100.0,
            rope_scaling: RopeScaling::None,
            max_positions: 32,
            tied,
            initializer_range: 0.3,
            architecture: crate::model::architecture::Architecture::default(),
            other: serde_json::Map::new(),
        };
        Llama::random(config, 3, &test_device()).unwrap()
    }

    fn logits(model: &Llama, exit: Exit) -> Vec<f32> {
        let tokens = Tensor::<2, Int>::from_data([[1, 5, 2, 9]], &model.device());
        let hidden = model.embed(&tokens).unwrap();
        let hidden = model.blocks(hidden, 0..exit.depth(), None).unwrap();
        let hidden = model.at_exit(hidden, exit, None).unwrap();
        let logits = model.logits(&hidden, exit).unwrap();
        logits.into_data().try_to_vec().unwrap()
    }

    /// An extracted model that was saved and loaded gives the logits of its exit.
    #[test]
    fn an_extracted_model_says_what_its_exit_says() {
        let exits = Exits::new([1, 3, 4]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for (index, tied) in [true, false].into_iter().enumerate() {
            for own_heads in [false, true] {
                let mut whole = model(tied);
                if own_heads {
                    whole = whole.with_exit_heads(&exits).unwrap();
                    // Differs from the shared head, so that the two can be told apart.
                    let other = model(tied).model.embed_tokens.weight.val().mul_scalar(-0.5);
                    whole.exit_heads.heads[0].weight = burn::module::Param::from_tensor(other);
                }
                for exit in exits.iter() {
                    let path = folder.path().join(format!("{index}-{own_heads}-{exit}"));
                    let part = whole.clone().extract(exit).unwrap();
                    part.save_pretrained(&path, &SaveOptions::default())
                        .unwrap();
                    let part = Llama::from_pretrained(&path, &test_device()).unwrap();
                    assert_eq!(part.depth(), exit.depth());
                    assert!(part.exits_with_heads().is_empty());
                    assert_eq!(logits(&part, exit), logits(&whole, exit));
                }
            }
        }
    }

    /// An exit's own block becomes the last block. Saving the full model keeps it too.
    #[test]
    fn an_exit_with_a_block_of_its_own_is_one_block_deeper() {
        let exits = Exits::new([1, 3, 4]).unwrap();
        let device = test_device();
        let mut whole = model(true).with_exit_blocks(&exits).unwrap();
        let other = model(false).model;
        for (own, block) in whole.exit_blocks.blocks.iter_mut().zip(other.layers) {
            own.block = Some(block);
            own.norm.weight = burn::module::Param::from_tensor(Tensor::full([8], 0.7, &device));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("whole");
        whole
            .save_pretrained(&path, &SaveOptions::default())
            .unwrap();
        let loaded = Llama::from_pretrained(&path, &device).unwrap();
        assert_eq!(loaded.exits_with_blocks(), whole.exits_with_blocks());
        for exit in exits.iter() {
            assert_eq!(logits(&loaded, exit), logits(&whole, exit));
            let part = whole.clone().extract(exit).unwrap();
            let deeper = usize::from(exit != exits.last());
            assert_eq!(part.depth(), exit.depth() + deeper);
            assert!(part.exits_with_blocks().is_empty());
            let full = Exits::new([part.depth()]).unwrap().last();
            assert_eq!(logits(&part, full), logits(&whole, exit));
        }
    }

    /// In the whole model an exit with its own block decodes as the extracted model does.
    #[test]
    fn an_exit_with_a_block_of_its_own_decodes_as_its_extract() {
        let exits = Exits::new([2, 4]).unwrap();
        let whole = model(true).with_exit_blocks(&exits).unwrap();
        let prompt = Prompt {
            tokens: vec![1, 2],
            seed: 0,
        };
        let decode = |model: &Llama, depth| {
            let mode = Mode::Static(Exit::new(depth).unwrap());
            let settings = DecodeSettings::greedy(mode, 9);
            let decoder = Decoder::new(model, std::slice::from_ref(&prompt), settings).unwrap();
            decoder.answers().unwrap()
        };
        let part = whole.clone().extract(Exit::new(2).unwrap()).unwrap();
        assert_eq!(decode(&whole, 2), decode(&part, 3));
        assert_ne!(decode(&whole, 2), decode(&whole, 4));
    }

    #[test]
    fn an_exit_beyond_the_model_is_refused() {
        let exit = Exits::new([5]).unwrap().last();
        let message = model(true).extract(exit).unwrap_err().to_string();
        assert!(message.contains("exit 5"), "{message}");
    }
}
