//! Which tokens begin, end and fill a text, as the files of a model folder say.
//!
//! Knows the configuration files of Hugging Face model folders; encodes nothing.
//!
//! Source: the behaviour of `transformers`' fast tokenizers, except that a text for training
//! always ends in the end-of-text token, so that `add_eos_token` does not matter.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::Tokenizer as HfTokenizer;

use crate::DataError;
use crate::rows::{describe, read_json};

/// The special tokens of a model folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SpecialTokens {
    /// Put in front of every text, where the folder asks for it.
    pub(crate) bos: Option<u32>,
    /// Ends every text.
    pub(crate) eos: u32,
    /// Fills short rows.
    pub(crate) pad: u32,
    /// Whatever ends a generation; `eos` is the first.
    pub(crate) stop: Vec<u32>,
}

impl SpecialTokens {
    pub(crate) fn read(folder: &Path, hf: &HfTokenizer) -> Result<Self, DataError> {
        let tokenizer = Config::read(folder, "tokenizer_config.json")?;
        let model = Config::read(folder, "config.json")?;
        let generation = Config::read(folder, "generation_config.json")?;
        let ids = |key| -> Result<Vec<u32>, DataError> {
            Ok([model.ids(key)?, generation.ids(key)?].concat())
        };

        let mut stop = ids("eos_token_id")?;
        let named = tokenizer.token("eos_token", hf)?;
        let eos = named.or(stop.first().copied());
        let eos = eos.ok_or_else(|| DataError::NoEndOfText {
            folder: folder.to_owned(),
        })?;
        stop.retain(|&id| id != eos);
        stop.sort_unstable();
        stop.dedup();
        stop.insert(0, eos);

        let bos = tokenizer
            .token("bos_token", hf)?
            .or(ids("bos_token_id")?.first().copied());
        let bos = wanted_bos(&tokenizer, hf, bos, eos)?;
        let pad = tokenizer.token("pad_token", hf)?.unwrap_or(eos);
        Ok(Self {
            bos,
            eos,
            pad,
            stop,
        })
    }
}

/// `bos` if texts begin with it: `add_bos_token` decides, else whether the post-processor of
/// `tokenizer.json` adds a token, else the tokenizer's class (LLaMA's default is to add it).
fn wanted_bos(
    config: &Config,
    hf: &HfTokenizer,
    bos: Option<u32>,
    eos: u32,
) -> Result<Option<u32>, DataError> {
    let around = hf.encode("", true).map_err(tokenization)?;
    let added = around
        .get_ids()
        .first()
        .copied()
        .filter(|&id| Some(id) == bos || id != eos);
    let llama = config
        .entry("tokenizer_class")
        .and_then(Value::as_str)
        .is_some_and(|class| class.starts_with("LlamaTokenizer"));
    match config.entry("add_bos_token") {
        Some(Value::Bool(false)) => Ok(None),
        Some(Value::Bool(true)) => bos.or(added).map(Some).ok_or_else(|| {
            config.refuse("add_bos_token", "a `bos_token` to add", "none".to_owned())
        }),
        Some(other) => Err(config.refuse("add_bos_token", "a boolean", describe(other))),
        None => Ok(added.or(bos.filter(|_| llama))),
    }
}

pub(crate) fn tokenization(cause: tokenizers::Error) -> DataError {
    DataError::Tokenization {
        cause: cause.to_string(),
    }
}

/// A configuration file, which may be absent.
struct Config {
    path: PathBuf,
    value: Value,
}

impl Config {
    fn read(folder: &Path, name: &str) -> Result<Self, DataError> {
        let path = folder.join(name);
        let value = match read_json(&path) {
            Err(DataError::Read { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
                Value::Null
            }
            value => value?,
        };
        Ok(Self { path, value })
    }

    fn entry(&self, key: &str) -> Option<&Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    fn refuse(&self, key: &'static str, expected: &'static str, found: String) -> DataError {
        DataError::SpecialToken {
            path: self.path.clone(),
            key,
            expected,
            found,
        }
    }

    /// The id of a token given by its text, or by an object with the text as `content`.
    fn token(&self, key: &'static str, hf: &HfTokenizer) -> Result<Option<u32>, DataError> {
        let Some(value) = self.entry(key) else {
            return Ok(None);
        };
        let Some(token) = value.as_str().or_else(|| value.get("content")?.as_str()) else {
            return Err(self.refuse(key, "a string or an object with `content`", describe(value)));
        };
        let id = hf.token_to_id(token).ok_or_else(|| {
            let expected = "a token of tokenizer.json";
            self.refuse(key, expected, format!("`{token}`, which it lacks"))
        })?;
        Ok(Some(id))
    }

    /// The ids under `key`: one number, or an array of them.
    fn ids(&self, key: &'static str) -> Result<Vec<u32>, DataError> {
        let id = |value: &Value| {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| self.refuse(key, "a token id or an array of them", describe(value)))
        };
        match self.entry(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(ids)) => ids.iter().map(id).collect(),
            Some(value) => Ok(vec![id(value)?]),
        }
    }
}
