//! A sub-model as a model of its own.
//!
//! Source: Sorted LLaMA, section 4.1, baseline "Extracted Fine-Tuning": the first n blocks, the norm and the head are taken out and
//! fine-tuned as any model. What comes out knows nothing of exits.

use soft_core::{Exit, Exits};

use crate::heads::ExitHeads;
use crate::{Error, Llama};

impl Llama {
    /// The first blocks up to `exit`, with the model's norm and with the head that serves this exit.
    ///
    /// Its logits at full depth are this model's at `exit`. A head of the exit's own (SFT+ICT) becomes the model's, untied from the
    /// embedding.
    ///
    /// # Errors
    /// When the model has no such exit.
    pub fn extract(mut self, exit: Exit) -> Result<Self, Error> {
        let depth = exit.depth();
        Exits::new([depth])?.check_within(self.config.n_layers)?;
        if let Some(head) = self.exit_heads.get(exit) {
            self.lm_head = Some(head.clone());
            self.config.tied = false;
        }
        self.exit_heads = ExitHeads::none();
        self.model.layers.truncate(depth);
        self.config.n_layers = depth;
        Ok(self)
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    #![allow(clippy::unwrap_used)] // a test's way to fail

    use burn::tensor::{Int, Tensor};
    use soft_core::NestedModel;

    use super::*;
    use crate::{LlamaConfig, RopeScaling, SaveOptions, device};

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
            other: serde_json::Map::new(),
        };
        Llama::random(config, 3, &device("cpu").unwrap()).unwrap()
    }

    fn logits(model: &Llama, exit: Exit) -> Vec<f32> {
        let tokens = Tensor::<2, Int>::from_data([[1, 5, 2, 9]], &model.device());
        let hidden = model.embed(&tokens).unwrap();
        let hidden = model.blocks(hidden, 0..exit.depth(), None).unwrap();
        let logits = model.logits(&hidden, exit).unwrap();
        logits.into_data().try_to_vec().unwrap()
    }

    /// On disk and back, every extracted model is what its exit was.
    #[test]
    fn an_extracted_model_says_what_its_exit_says() {
        let exits = Exits::new([1, 3, 4]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for (index, tied) in [true, false].into_iter().enumerate() {
            for own_heads in [false, true] {
                let mut whole = model(tied);
                if own_heads {
                    whole = whole.with_exit_heads(&exits).unwrap();
                    // Other than the shared one, so that they can be told apart.
                    let other = model(tied).model.embed_tokens.weight.val().mul_scalar(-0.5);
                    whole.exit_heads.heads[0].weight = burn::module::Param::from_tensor(other);
                }
                for exit in exits.iter() {
                    let path = folder.path().join(format!("{index}-{own_heads}-{exit}"));
                    let part = whole.clone().extract(exit).unwrap();
                    part.save_pretrained(&path, &SaveOptions::default())
                        .unwrap();
                    let part = Llama::from_pretrained(&path, &device("cpu").unwrap()).unwrap();
                    assert_eq!(part.depth(), exit.depth());
                    assert!(part.exits_with_heads().is_empty());
                    assert_eq!(logits(&part, exit), logits(&whole, exit));
                }
            }
        }
    }

    #[test]
    fn an_exit_beyond_the_model_is_refused() {
        let exit = Exits::new([5]).unwrap().last();
        let message = model(true).extract(exit).unwrap_err().to_string();
        assert!(message.contains("exit 5"), "{message}");
    }
}
