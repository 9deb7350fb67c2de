//! The tokens that drafts are made of, stored with the checkpoint: `draft_tokens.json`.
//!
//! A JSON array of token ids, most frequent first. A draft head of few thousand tokens costs a
//! fraction of the full head and loses nothing, since the full head checks; the list is counted
//! from data (soft-data's `frequent_tokens`). transformers ignores the file.

use std::path::Path;

use crate::error::Error;
use crate::files::folder::{exists, read_json, replace_json};

pub(crate) const DRAFT_TOKENS_FILE: &str = "draft_tokens.json";

/// The draft tokens of a model folder; none when it has no list.
///
/// # Errors
/// When the file is no JSON array of token ids.
pub fn draft_tokens(folder: impl AsRef<Path>) -> Result<Option<Vec<u32>>, Error> {
    let path = folder.as_ref().join(DRAFT_TOKENS_FILE);
    if exists(&path)? {
        read_json(&path).map(Some)
    } else {
        Ok(None)
    }
}

/// Writes the draft tokens of a model folder, in place of those it had.
///
/// # Errors
/// I/O errors.
pub fn save_draft_tokens(folder: impl AsRef<Path>, tokens: &[u32]) -> Result<(), Error> {
    replace_json(&folder.as_ref().join(DRAFT_TOKENS_FILE), &tokens)
}
