//! The decoding settings of a model folder: exits, draft tokens, exit probes, calibrated rules.

use std::path::Path;

use soft_core::Exits;
use soft_core::policy::{CalibratedExits, ExitProbes};

use crate::error::Error;
use crate::io::draft_tokens::{DRAFT_TOKENS_FILE, draft_tokens};
use crate::io::exit_probes::{EXIT_PROBES_FILE, exit_probes};
use crate::io::pretrained::SoftInfo;
use crate::model::config::LlamaConfig;

/// The decoding settings stored in a model folder, in `soft.json`, `draft_tokens.json` and
/// `exit_probes.json`.
#[derive(Clone, Debug)]
pub struct DecodingDefaults {
    /// Number of blocks.
    pub depth: usize,
    /// The exits the model was trained at; `None` without a `soft.json`.
    pub exits: Option<Exits>,
    /// Frequent tokens for drafting; `None` when the folder has no list.
    pub draft_tokens: Option<Vec<u32>>,
    /// Learned probes of the early exits; `None` when the folder has none.
    pub probes: Option<ExitProbes>,
    /// Rules with calibrated thresholds, the preferred one first.
    pub calibrated: Vec<CalibratedExits>,
}

impl DecodingDefaults {
    /// Reads them from the folder of a model with this configuration.
    ///
    /// # Errors
    /// When a file is malformed, the draft tokens are empty or outside the vocabulary, or a probe
    /// is for states of another width or not finite.
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
        let probes = exit_probes(folder)?;
        if let Some(probes) = &probes {
            let checked = probes.check(config.d_model);
            checked.map_err(|source| Error::ExitProbes {
                path: folder.join(EXIT_PROBES_FILE),
                source,
            })?;
        }
        let info = SoftInfo::load(folder)?;
        Ok(Self {
            depth: config.n_layers,
            exits: info.as_ref().map(|info| info.exits.clone()),
            draft_tokens,
            probes,
            calibrated: info.map_or(Vec::new(), |info| info.calibrated),
        })
    }
}
