//! The decoding settings of a model folder: exits, draft tokens, calibrated rules.

use std::path::Path;

use soft_core::Exits;
use soft_core::policy::CalibratedExits;

use crate::error::Error;
use crate::io::draft_tokens::{DRAFT_TOKENS_FILE, draft_tokens};
use crate::io::pretrained::SoftInfo;
use crate::model::config::LlamaConfig;

/// The decoding settings stored in a model folder, in `soft.json` and `draft_tokens.json`.
#[derive(Clone, Debug)]
pub struct DecodingDefaults {
    /// Number of blocks.
    pub depth: usize,
    /// The exits the model was trained at; `None` without a `soft.json`.
    pub exits: Option<Exits>,
    /// Frequent tokens for drafting; `None` when the folder has no list.
    pub draft_tokens: Option<Vec<u32>>,
    /// Rules with calibrated thresholds, the preferred one first.
    pub calibrated: Vec<CalibratedExits>,
}

impl DecodingDefaults {
    /// Reads them from the folder of a model with this configuration.
    ///
    /// # Errors
    /// When a file is malformed, or the draft tokens are empty or outside the vocabulary.
    pub fn load(folder: impl AsRef<Path>, config: &LlamaConfig) -> Result<Self, Error> {
        let folder = folder.as_ref();
        let draft_tokens = draft_tokens(folder)?;
        if let Some(tokens) = &draft_tokens {
            let outside = tokens.iter().find(|&&token| token as usize >= config.vocab);
            if outside.is_some() || tokens.is_empty() {
                return Err(Error::DraftTokens {
                    path: folder.join(DRAFT_TOKENS_FILE),
                    vocab: config.vocab,
                    found: outside.map_or("none".to_owned(), u32::to_string),
                });
            }
        }
        let info = SoftInfo::load(folder)?;
        Ok(Self {
            depth: config.n_layers,
            exits: info.as_ref().map(|info| info.exits.clone()),
            draft_tokens,
            calibrated: info.map_or(Vec::new(), |info| info.calibrated),
        })
    }
}
