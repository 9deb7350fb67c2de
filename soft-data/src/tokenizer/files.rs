//! Finds the tokenizer of a folder and rejects files that abort the tokenizers library.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::DataError;
use crate::guard::is_cut_off;
use crate::rows::{if_there, read_json};

/// Rejects character maps that announce a longer table, which the library would allocate.
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
    // Few files have the key, so only those are parsed a second time.
    if text.contains(KEY) && cut_off(&serde_json::from_str(text)?) {
        return Err(format!("{KEY} is cut off").into());
    }
    Ok(())
}

pub(crate) const TOKENIZER_JSON: &str = "tokenizer.json";
pub(crate) const SENTENCEPIECE: &str = "tokenizer.model";

/// Maximum length of a chain of adapters; a longer one must be a cycle.
pub(crate) const MOST_BASES: usize = 8;

/// The folder with the tokenizer: `folder` or, for an adapter, that of its base model.
pub(crate) fn folder_with_tokenizer(folder: &Path) -> Result<PathBuf, DataError> {
    let mut base = folder.to_owned();
    for _ in 0..MOST_BASES {
        if [TOKENIZER_JSON, SENTENCEPIECE]
            .iter()
            .any(|name| base.join(name).exists())
        {
            return Ok(base);
        }
        let adapter = if_there(read_json(&base.join("adapter_config.json")))?;
        let next = adapter.as_ref();
        match next.and_then(|it| it.get("base_model_name_or_path")?.as_str()) {
            Some(next) => base = next.into(),
            None => break,
        }
    }
    let pieces = ["spiece.model", "vocab.json"];
    let found = pieces.into_iter().find(|name| folder.join(name).exists());
    found.map_or(Ok(folder.to_owned()), |found| {
        Err(DataError::NoTokenizer {
            folder: folder.to_owned(),
            found,
        })
    })
}
