//! Loads a model and its tokenizer from the folder on the command line.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use soft_burn::{DecodingDefaults, Llama, LlamaConfig, Placement};
use soft_data::Tokenizer;

use crate::device::PlaceArgs;
use crate::hub::model_folder;
use crate::prompts::Reader;
use crate::statusln;
use crate::tokens::TokenArgs;

/// A model folder, and how its model and tokenizer are loaded.
#[derive(Args, Debug, Clone)]
pub struct ModelArgs {
    /// Model folder; with the feature `hub` also `org/name[@revision]`
    #[arg(long)]
    pub model: PathBuf,
    #[command(flatten)]
    pub tokens: TokenArgs,
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// A loaded model.
pub struct OpenModel {
    /// Its folder; in the cache for a model from a hub.
    pub folder: PathBuf,
    /// The weights.
    pub model: Llama,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// Decoding defaults of the folder.
    pub trained: DecodingDefaults,
}

impl ModelArgs {
    /// Loads the model. A model named as on a hub is fetched first.
    pub fn open(&self) -> Result<OpenModel> {
        let folder = model_folder(&self.model)?;
        let model = load(&folder, self.place.open()?)?;
        let config = model.config();
        Ok(OpenModel {
            tokenizer: self.tokens.open(&folder, config.vocab)?,
            trained: DecodingDefaults::load(&folder, config)?,
            folder,
            model,
        })
    }
}

impl OpenModel {
    /// Encodes prompts for this model.
    pub fn reader(&self) -> Reader<'_> {
        Reader {
            folder: &self.folder,
            tokenizer: &self.tokenizer,
            context: self.model.config().max_positions,
        }
    }
}

/// Loads the model of a folder. Prints a note if config.json ties the head but the weights do not.
pub fn load(folder: &Path, place: impl Into<Placement>) -> Result<Llama> {
    let model = Llama::from_pretrained(folder, place)?;
    if LlamaConfig::load(folder)?.tied && !model.config().tied {
        statusln!(
            "note: {}: tie_word_embeddings is true, but lm_head.weight differs from the embedding: \
             the model has a head of its own and is saved with it",
            folder.display()
        );
    }
    Ok(model)
}
