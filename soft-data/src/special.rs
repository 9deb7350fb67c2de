//! Special tokens of a model folder: begin, end and padding.
//!
//! Source: the fast tokenizers of `transformers`, except that training text always ends in the
//! end-of-text token, so `add_eos_token` has no effect.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer as HfTokenizer};

use crate::DataError;
use crate::rows::{describe, if_there, read_json};

/// Special tokens by their keys in tokenizer_config.json.
pub(crate) const NAMED: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// Keys that list further special tokens, in an array or by name.
const FURTHER: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SpecialTokens {
    /// Added to the start of every text, if the folder requires it.
    pub(crate) bos: Option<u32>,
    /// End-of-text token.
    pub(crate) eos: u32,
    /// Padding token.
    pub(crate) pad: u32,
    /// Tokens that end a generation; `eos` is the first.
    pub(crate) stop: Vec<u32>,
    /// Message about an unusable padding token and its replacement.
    pub(crate) note: Option<String>,
}

impl SpecialTokens {
    pub(crate) fn read(files: &Files, hf: &HfTokenizer, vocab: usize) -> Result<Self, DataError> {
        let mut stop = files.ids("eos_token_id", vocab)?;
        let named = files.token("eos_token", hf)?;
        let eos = named.or(stop.first().copied());
        let eos = eos.ok_or_else(|| DataError::NoEndOfText {
            folder: files.folder.clone(),
        })?;
        stop.retain(|&id| id != eos);
        stop.sort_unstable();
        stop.dedup();
        stop.insert(0, eos);

        let bos = files.token("bos_token", hf)?;
        let bos = bos.or(files.ids("bos_token_id", vocab)?.first().copied());
        let bos = wanted_bos(files, hf, bos, eos)?;
        let (pad, note) = padding(files, hf, eos, vocab)?;
        Ok(Self {
            bos,
            eos,
            pad,
            stop,
            note,
        })
    }
}

/// The padding token. Padding is never seen by the model, so a missing token is not an error:
/// derivatives of LLaMA 2 often name one that was never added.
fn padding(
    files: &Files,
    hf: &HfTokenizer,
    eos: u32,
    vocab: usize,
) -> Result<(u32, Option<String>), DataError> {
    let Some((config, text)) = files.named("pad_token")? else {
        return Ok((eos, None));
    };
    let problem = match hf.token_to_id(text) {
        Some(id) if (id as usize) < vocab => return Ok((id, None)),
        Some(id) => format!("its id {id} is outside the model's vocabulary of {vocab}"),
        None => "tokenizer.json lacks it".to_owned(),
    };
    let path = config.path.display();
    let note = format!(
        "{path}: pad_token is `{text}`, but {problem}: rows are filled with token {eos}, which ends texts"
    );
    Ok((eos, Some(note)))
}

/// `bos`, if texts begin with it: decided by `add_bos_token`, else by the post-processor in
/// `tokenizer.json`, else by the class (LLaMA's default is to add it).
fn wanted_bos(
    files: &Files,
    hf: &HfTokenizer,
    bos: Option<u32>,
    eos: u32,
) -> Result<Option<u32>, DataError> {
    let around = hf.encode("", true).map_err(|cause| files.unusable(cause))?;
    let added = around
        .get_ids()
        .first()
        .copied()
        .filter(|&id| Some(id) == bos || id != eos);
    let config = &files.tokenizer;
    match config.entry("add_bos_token") {
        Some(Value::Bool(false)) => Ok(None),
        Some(Value::Bool(true)) => bos.or(added).map(Some).ok_or_else(|| {
            config.refuse("add_bos_token", "a `bos_token` to add", "none".to_owned())
        }),
        Some(other) => Err(config.refuse("add_bos_token", "a boolean", describe(other))),
        None => Ok(added.or(bos.filter(|_| files.is_llama_class()))),
    }
}

/// The configuration files of a model folder that concern tokens.
#[derive(Debug)]
pub(crate) struct Files {
    folder: PathBuf,
    pub(crate) tokenizer: Config,
    map: Config,
    model: Config,
    generation: Config,
}

impl Files {
    pub(crate) fn read(folder: &Path) -> Result<Self, DataError> {
        Ok(Self {
            folder: folder.to_owned(),
            tokenizer: Config::read(folder, "tokenizer_config.json")?,
            map: Config::read(folder, "special_tokens_map.json")?,
            model: Config::read(folder, "config.json")?,
            generation: Config::read(folder, "generation_config.json")?,
        })
    }

    pub(crate) fn unusable(&self, cause: impl ToString) -> DataError {
        DataError::Tokenizer {
            path: self.folder.join("tokenizer.json"),
            cause: cause.to_string(),
        }
    }

    /// Whether transformers loads the tokenizer with its LLaMA or CodeLLaMA class.
    pub(crate) fn is_llama_class(&self) -> bool {
        let class = self.tokenizer.entry("tokenizer_class");
        class
            .and_then(Value::as_str)
            .is_some_and(|class| class.starts_with("LlamaTokenizer"))
            || self.is_code_llama_class()
    }

    /// Whether it is CodeLLaMA's class, which never adds a space after control tokens.
    pub(crate) fn is_code_llama_class(&self) -> bool {
        let class = self.tokenizer.entry("tokenizer_class");
        class
            .and_then(Value::as_str)
            .is_some_and(|class| class.starts_with("CodeLlamaTokenizer"))
    }

    /// Marks as special all tokens that these files declare special, as transformers does whatever
    /// tokenizer.json says. Text that spells such a token must not become one.
    pub(crate) fn mark_special(&self, hf: &mut HfTokenizer, vocab: usize) -> Result<(), DataError> {
        let added = hf.get_added_tokens_decoder();
        let mut special: Vec<AddedToken> = Vec::new();
        let flagged = self.tokenizer.entry("added_tokens_decoder");
        let flagged = flagged.and_then(Value::as_object).into_iter().flatten();
        let flagged = flagged.filter(|(_, token)| token.get("special") == Some(&true.into()));
        let flagged = flagged.filter_map(|(id, _)| id.parse::<u32>().ok());
        let ids = flagged.chain(self.ids("eos_token_id", vocab)?);
        special.extend(ids.filter_map(|id| added.get(&id).cloned()));
        let named = NAMED.iter().filter_map(|key| self.token_text(key));
        let further = FURTHER.iter().flat_map(|key| self.tokenizer.texts(key));
        for text in named.chain(further) {
            let id = hf.token_to_id(text);
            let token = id.map(|id| added.get(&id).cloned());
            special.extend(token.map(|it| it.unwrap_or_else(|| AddedToken::from(text, true))));
        }
        special.retain(|token| !token.special || !added.values().any(|it| it == token));
        let special = special.into_iter().map(|token| token.special(true));
        hf.add_special_tokens(special.collect::<Vec<_>>())
            .map_err(|cause| self.unusable(cause))?;
        Ok(())
    }

    /// The text of a special token and the file that names it.
    fn named(&self, key: &'static str) -> Result<Option<(&Config, &str)>, DataError> {
        for config in [&self.tokenizer, &self.map] {
            if let Some(value) = config.entry(key) {
                let expected = "a string or an object with `content`";
                let text = text_of(value);
                let text = text.ok_or_else(|| config.refuse(key, expected, describe(value)))?;
                return Ok(Some((config, text)));
            }
        }
        Ok(None)
    }

    pub(crate) fn token_text(&self, key: &'static str) -> Option<&str> {
        self.named(key).ok().flatten().map(|(_, text)| text)
    }

    /// The id of a special token; an error if the tokenizer lacks it.
    fn token(&self, key: &'static str, hf: &HfTokenizer) -> Result<Option<u32>, DataError> {
        let Some((config, token)) = self.named(key)? else {
            return Ok(None);
        };
        let id = hf.token_to_id(token).ok_or_else(|| {
            let expected = "a token of tokenizer.json";
            config.refuse(key, expected, format!("`{token}`, which it lacks"))
        })?;
        Ok(Some(id))
    }

    fn ids(&self, key: &'static str, vocab: usize) -> Result<Vec<u32>, DataError> {
        let (model, generation) = (&self.model, &self.generation);
        Ok([model.ids(key, vocab)?, generation.ids(key, vocab)?].concat())
    }

    /// generation_config.json with `stop` as the tokens that end a generation.
    pub(crate) fn generation_with(&self, stop: &[u32]) -> Value {
        let mut generation = match &self.generation.value {
            Value::Object(entries) => entries.clone(),
            _ => Default::default(),
        };
        generation.insert("eos_token_id".to_owned(), stop.into());
        Value::Object(generation)
    }

    /// Whether `key` of tokenizer_config.json is true; `otherwise` if it is absent.
    pub(crate) fn is_set(&self, key: &'static str, otherwise: bool) -> Result<bool, DataError> {
        match self.tokenizer.entry(key) {
            None => Ok(otherwise),
            Some(Value::Bool(set)) => Ok(*set),
            Some(other) => Err(self.tokenizer.refuse(key, "a boolean", describe(other))),
        }
    }
}

/// The text of a token given as a string or as an object with `content`.
fn text_of(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// A configuration file; empty if absent.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) path: PathBuf,
    value: Value,
}

impl Config {
    fn read(folder: &Path, name: &str) -> Result<Self, DataError> {
        let path = folder.join(name);
        let value = if_there(read_json(&path))?.unwrap_or_default();
        Ok(Self { path, value })
    }

    pub(crate) fn entry(&self, key: &str) -> Option<&Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    /// The texts of the tokens under `key`, given as an array or an object.
    fn texts(&self, key: &str) -> Vec<&str> {
        match self.entry(key) {
            Some(Value::Array(tokens)) => tokens.iter().filter_map(text_of).collect(),
            Some(Value::Object(tokens)) => tokens.values().filter_map(text_of).collect(),
            _ => Vec::new(),
        }
    }

    fn refuse(&self, key: &'static str, expected: &'static str, found: String) -> DataError {
        DataError::SpecialToken {
            path: self.path.clone(),
            key,
            expected,
            found,
        }
    }

    /// The ids under `key`, given as a number or an array; each must be below `vocab`.
    fn ids(&self, key: &'static str, vocab: usize) -> Result<Vec<u32>, DataError> {
        let id = |value: &Value| {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or_else(|| {
                self.refuse(key, "a token id or an array of them", describe(value))
            })?;
            if (id as usize) < vocab {
                Ok(id)
            } else {
                let found = format!("{id} for a vocab_size of {vocab}");
                Err(self.refuse(key, "ids below the model's vocab_size", found))
            }
        };
        match self.entry(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(ids)) => ids.iter().map(id).collect(),
            Some(value) => Ok(vec![id(value)?]),
        }
    }
}
