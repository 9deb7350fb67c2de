//! The trained parts of a model: all weights, last blocks, adapters, or heads or blocks of exits.
//!
//! Adds the parts that a method requires and freezes the rest. Frozen weights need neither
//! gradients nor optimizer state, and nothing below the first trained weight is differentiated.

use burn::module::Module;
use soft_core::{Exit, Exits, NestedModel};

use crate::error::Error;
use crate::model::block::Block;
use crate::model::llama::Llama;
use crate::model::placement::check_supported;
use crate::train::method::{Method, MethodName, SoftOptions, TrainedWeights, intermediate};
use crate::train::refusal::refuse;
use crate::train::setting_checks::check_last_blocks;
use crate::train::settings::TrainSettings;

pub(crate) fn fitted(model: Llama, settings: &TrainSettings) -> Result<Llama, Error> {
    settings.check_within(model.config())?;
    let exits = settings.exits.clone().for_depth(model.depth())?;
    let model = with_parts(settings.method.name(), model, &exits)?;
    let model = match (settings.method.lora(), model.has_adapter()) {
        (Some(lora), false) => {
            let fresh = lora.fresh(model.config())?;
            model.with_adapter(&fresh)?
        }
        (Some(lora), true) => {
            let (found, wanted) = (model.adapter()?, lora.fresh(model.config())?);
            if !found.is_some_and(|found| found.is_like(&wanted)) {
                let found = format!("{lora:?}, but the model has another adapter");
                return refuse(
                    "lora",
                    found,
                    "the adapter's rank, alpha, targets and layers",
                );
            }
            model
        }
        (None, true) => {
            let found = "none, but the model has an adapter".to_owned();
            return refuse("lora", found, "some, or the adapter merged");
        }
        (None, false) => model,
    };
    check_supported(settings.dtype, &model.device())?;
    let model = model.with_weights(settings.dtype);
    let model = model.train();
    match &settings.method {
        Method::Ict(_) => Ok(model.freeze_all_but_exit_heads()),
        Method::Balcony {
            train_body: false, ..
        } => Ok(model.freeze_all_but_exit_blocks()),
        Method::Balcony { .. } => Ok(model),
        Method::Soft(SoftOptions { body, .. }) | Method::Sft(body) => match body.trained {
            TrainedWeights::LastBlocks(count) => model.freeze_all_but_last(count),
            TrainedWeights::All | TrainedWeights::Lora(_) => Ok(model),
        },
    }
}

/// Adds heads (ICT) or blocks (Balcony) of the intermediate exits if `method` requires them. Those
/// that the model already has must match the method and the exits.
fn with_parts(method: MethodName, model: Llama, exits: &Exits) -> Result<Llama, Error> {
    let intermediate = intermediate(exits);
    if method == MethodName::Balcony && !model.exits_with_heads().is_empty() {
        let found = format!(
            "balcony, but exits {} have",
            listed(model.exits_with_heads())
        );
        let expected =
            "a model whose exits share its head: heads of exits with blocks are not trained";
        return refuse("method", format!("{found} heads of their own"), expected);
    }
    let heads = ("heads", model.exits_with_heads(), method == MethodName::Ict);
    let blocks = (
        "blocks",
        model.exits_with_blocks(),
        method == MethodName::Balcony,
    );
    for (what, found, wanted) in [heads, blocks] {
        let own = || format!("the model has {what} of its own at {}", listed(found));
        if !wanted && !found.is_empty() {
            let found = format!("{}, but {}", method.as_str(), own());
            let expected = "the method that they were made by, or a model without them";
            return refuse("method", found, expected);
        }
        if wanted && intermediate.is_empty() {
            let expected = "an intermediate exit to train";
            return refuse("exits", exits.to_string(), expected);
        }
        if wanted && !found.is_empty() && found != intermediate {
            let found = format!("{exits}, but {}", own());
            return refuse("exits", found, "the exits of those and the full depth");
        }
    }
    match method {
        MethodName::Ict if heads.1.is_empty() => model.with_exit_heads(exits),
        MethodName::Balcony if blocks.1.is_empty() => model.with_exit_blocks(exits),
        _ => Ok(model),
    }
}

fn listed(exits: &[Exit]) -> String {
    let exits: Vec<_> = exits.iter().map(Exit::to_string).collect();
    exits.join(", ")
}

impl Llama {
    /// Freezes the blocks before the last `count` and the embedding, which is the head when tied.
    ///
    /// # Errors
    /// When `count` is 0 or exceeds the number of blocks.
    pub(crate) fn freeze_all_but_last(mut self, count: usize) -> Result<Self, Error> {
        let depth = self.config.n_layers;
        check_last_blocks(count, depth)?;
        self.model.embed_tokens = self.model.embed_tokens.freeze();
        let frozen = depth - count;
        let layers = std::mem::take(&mut self.model.layers).into_iter();
        let freeze = |(index, block): (usize, Block)| {
            if index < frozen {
                block.freeze()
            } else {
                block
            }
        };
        self.model.layers = layers.enumerate().map(freeze).collect();
        Ok(self)
    }

    pub(crate) fn freeze_all_but_exit_heads(mut self) -> Self {
        self.model = self.model.freeze();
        self.lm_head = self.lm_head.map(Module::freeze);
        self
    }

    pub(crate) fn freeze_all_but_exit_blocks(mut self) -> Self {
        self.model = self.model.freeze();
        self.lm_head = self.lm_head.map(Module::freeze);
        self
    }
}
