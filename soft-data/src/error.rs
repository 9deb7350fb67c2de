//! The error type of this crate.
//!
//! Messages give the location, what was expected and what was found. They include the cause, so
//! that printing the error alone is sufficient.

use std::io;
use std::path::PathBuf;

use soft_core::{BatchError, StreamPosition};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file could not be read.
    #[error("cannot read {}: {cause}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        cause: io::Error,
    },
    /// A file is not UTF-8.
    #[error("{}:{line}: expected UTF-8, found {found}: convert the file", .path.display())]
    Encoding {
        /// The file.
        path: PathBuf,
        /// Line of the file, from 1.
        line: usize,
        /// What was found.
        found: String,
    },
    /// A file is not JSON.
    #[error("{}:{line}:{column}: malformed JSON: {cause}", .path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line of the file, from 1.
        line: usize,
        /// Column of that line, from 1.
        column: usize,
        /// Message of the parser.
        cause: String,
    },
    /// A file is JSON, but not in the layout of its format.
    #[error("{}: expected {expected}, found {found}", .path.display())]
    Layout {
        /// The file.
        path: PathBuf,
        /// The expected layout.
        expected: &'static str,
        /// What was found.
        found: String,
    },
    /// A row lacks an entry or has an unexpected one.
    #[error("{}, row {row}{}: expected {expected}, found {found}", .path.display(), in_key(key))]
    Row {
        /// The file.
        path: PathBuf,
        /// The row, from 1; in JSON Lines the line number.
        row: usize,
        /// Path within the row, such as `messages[2].role`; empty for the whole row.
        key: String,
        /// What was expected.
        expected: &'static str,
        /// What was found.
        found: String,
    },
    /// A file has no rows.
    #[error("{}: expected at least one row, found none", .path.display())]
    NoRows {
        /// The file.
        path: PathBuf,
    },
    /// The name of a [`Format`](crate::Format) is unknown.
    #[error("expected a data format (alpaca, triviaqa, jsonl), found `{found}`")]
    UnknownFormat {
        /// The name.
        found: String,
    },
    /// `tokenizer.json` is not supported by the tokenizers crate.
    #[error("{}: expected a Hugging Face tokenizer, found: {cause}", .path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// Message of the tokenizers crate.
        cause: String,
    },
    /// The folder has a tokenizer, but no `tokenizer.json`.
    #[error(
        "{}: expected tokenizer.json, found {found} only: load it by transformers' AutoTokenizer and save it, which writes tokenizer.json",
        .folder.display()
    )]
    NoTokenizer {
        /// The model folder.
        folder: PathBuf,
        /// The file found instead.
        found: &'static str,
    },
    /// A configuration names an unusable special token.
    #[error("{}, `{key}`: expected {expected}, found {found}", .path.display())]
    SpecialToken {
        /// The configuration file.
        path: PathBuf,
        /// Key of the entry, such as `eos_token`.
        key: &'static str,
        /// What was expected.
        expected: &'static str,
        /// What was found.
        found: String,
    },
    /// No file of a model folder names an end-of-text token.
    #[error(
        "{}: expected `eos_token` in tokenizer_config.json or `eos_token_id` in config.json or \
         generation_config.json, found neither",
        .folder.display()
    )]
    NoEndOfText {
        /// The model folder.
        folder: PathBuf,
    },
    /// A token's id is outside the model's vocabulary.
    #[error("token `{token}` has id {id}, expected ids below the model's vocab_size of {vocab}")]
    OutsideVocabulary {
        /// The token's text.
        token: String,
        /// Its id.
        id: u32,
        /// Vocabulary size of the model.
        vocab: usize,
    },
    /// The tokenizer failed to encode or decode.
    #[error("{}: the tokenizer failed: {cause}", .path.display())]
    Tokenization {
        /// Path of `tokenizer.json`.
        path: PathBuf,
        /// Message of the tokenizers crate.
        cause: String,
    },
    /// A text contains a noncharacter that this library reserves.
    #[error("a text holds U+{:04X}, which is no character", u32::from(*.found))]
    Noncharacter {
        /// The noncharacter.
        found: char,
    },
    /// The name of a [`Role`](crate::Role) is unknown.
    #[error("expected a role (system, user, assistant, tool), found `{found}`")]
    UnknownRole {
        /// The name.
        found: String,
    },
    /// A chat template is malformed, rejects a conversation, fails, or exceeds its limits.
    #[error("{}, line {line} of the template: {cause}", .path.display())]
    ChatTemplate {
        /// The file that contains the template.
        path: PathBuf,
        /// Line within the template, not within the file, from 1.
        line: usize,
        /// Message of the template or of the template engine.
        cause: String,
    },
    /// The prompt for an answer is not a prefix of the conversation, as rendered by the template.
    #[error(
        "{}: the prompt for messages[{message}] ends in {prompt:?}, where the conversation with this \
         message goes on with {found:?}: a model trained on it would be asked in another form. Give \
         the folder a template in which both agree",
        .path.display()
    )]
    ChatPrompt {
        /// The file that contains the template.
        path: PathBuf,
        /// Index of the answer.
        message: usize,
        /// The prompt from the first difference on.
        prompt: String,
        /// The conversation from the first difference on.
        found: String,
    },
    /// A row cannot be encoded.
    #[error("row {row}: {cause}")]
    InRow {
        /// The row, as in [`Record::row`](crate::Record::row).
        row: usize,
        /// The cause.
        cause: Box<Self>,
    },
    /// A setting is out of range.
    #[error("`{setting}`: expected {expected}, found {found}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// The allowed range.
        expected: &'static str,
        /// The value.
        found: String,
    },
    /// The validation split would leave no training rows.
    #[error("expected fewer validation rows than the {rows} rows there are, found {validation}")]
    NothingToTrainOn {
        /// Number of rows.
        rows: usize,
        /// Number of validation rows.
        validation: usize,
    },
    /// There are no examples.
    #[error("expected at least one example with a supervised token, found none")]
    NoExamples,
    /// A position is past the end of its epoch.
    #[error(
        "position {{epoch {}, batch {}}}: expected a batch below {batches_per_epoch}; \
         was it taken with other data or another batch size?",
        .position.epoch, .position.batch
    )]
    NoSuchPosition {
        /// The position.
        position: StreamPosition,
        /// Number of batches in that epoch.
        batches_per_epoch: u64,
    },
    /// The rows do not form a batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
}

fn in_key(key: &str) -> String {
    match key {
        "" => String::new(),
        key => format!(", `{key}`"),
    }
}

impl DataError {
    pub(crate) fn in_row(self, row: usize) -> Self {
        Self::InRow {
            row,
            cause: Box::new(self),
        }
    }
}
