//! The draft vocabulary stored with a checkpoint: `draft_tokens.json`.
//!
//! A JSON array of token ids, most frequent first, counted from data (soft-data's
//! `frequent_tokens`). A draft head of a few thousand tokens costs a fraction of the full head. It
//! does not change the output, since the full head verifies every draft. transformers ignores the
//! file.

use std::path::Path;

use crate::error::Error;
use crate::files::folder::{exists, read_json, replace_json};

pub(crate) const DRAFT_TOKENS_FILE: &str = "draft_tokens.json";

/// The draft tokens of a model folder; `None` when it has no list.
///
/// # Errors
/// When the file is not a JSON array of token ids.
pub fn draft_tokens(folder: impl AsRef<Path>) -> Result<Option<Vec<u32>>, Error> {
    let path = folder.as_ref().join(DRAFT_TOKENS_FILE);
    if exists(&path)? {
        read_json(&path).map(Some)
    } else {
        Ok(None)
    }
}

/// Writes the draft tokens of a model folder, replacing an existing list.
///
/// # Errors
/// I/O errors.
pub fn save_draft_tokens(folder: impl AsRef<Path>, tokens: &[u32]) -> Result<(), Error> {
    replace_json(&folder.as_ref().join(DRAFT_TOKENS_FILE), &tokens)
}
