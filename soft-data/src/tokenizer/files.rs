//! Finding a folder's tokenizer, and refusing files that the tokenizer library cannot survive.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::DataError;
use crate::guard::is_cut_off;
use crate::rows::{if_there, read_json};

/// Refuses character maps for which more memory would be taken than they have bytes.
pub(crate) fn check_character_maps(text: &str) -> tokenizers::Result<()> {
    const KEY: &str = "precompiled_charsmap";
    fn cut_off(value: &Value) -> bool {
        match value {
            Value::Object(entries) => entries.iter().any(|(key, value)| match value.as_str() {
                Some(charsmap) if key == KEY => is_cut_off(charsmap),
                _ => cut_off(value),
            }),
            Value::Array(items) => items.iter().any(cut_off),
            _ => false,
        }
    }
    // Parsing a large file once more is for the few that have one.
    if text.contains(KEY) && cut_off(&serde_json::from_str(text)?) {
        return Err(format!("{KEY} is cut off").into());
    }
    Ok(())
}

/// Bases of an adapter that are adapters themselves; more can only be a circle.
pub(crate) const MOST_BASES: usize = 8;

/// The folder that holds the tokenizer: `folder`, or that of the base model where it holds an
/// adapter only.
pub(crate) fn folder_with_tokenizer(folder: &Path) -> Result<PathBuf, DataError> {
    let mut base = folder.to_owned();
    for _ in 0..MOST_BASES {
        if base.join("tokenizer.json").exists() {
            return Ok(base);
        }
        let adapter = if_there(read_json(&base.join("adapter_config.json")))?;
        let next = adapter.as_ref();
        match next.and_then(|it| it.get("base_model_name_or_path")?.as_str()) {
            Some(next) => base = next.into(),
            None => break,
        }
    }
    let pieces = ["tokenizer.model", "spiece.model", "vocab.json"];
    let found = pieces.into_iter().find(|name| folder.join(name).exists());
    found.map_or(Ok(folder.to_owned()), |found| {
        Err(DataError::NoTokenizer {
            folder: folder.to_owned(),
            found,
        })
    })
}
