//! A model from its folder, and what of the folder could not be taken as it stands.

use std::path::Path;

use anyhow::Result;
use soft_burn::{Llama, LlamaConfig, Placement};

use crate::statusln;

/// Loads the model of a folder. Where it is not what its config.json says, that is said.
pub fn load(folder: &Path, place: impl Into<Placement>) -> Result<Llama> {
    let model = Llama::from_pretrained(folder, place)?;
    if LlamaConfig::load(folder)?.tied && !model.config().tied {
        statusln!(
            "note: {}: tie_word_embeddings is true, but lm_head.weight differs from the embedding: the model has a head of its own, and is \
             saved so",
            folder.display()
        );
    }
    Ok(model)
}
