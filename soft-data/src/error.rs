//! The error type of this crate.
//!
//! Every variant says where, what was expected and what came. Causes from other crates are part
//! of the message, so that printing the error alone is enough.

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
        /// What the operating system said.
        cause: io::Error,
    },
    /// A file is not UTF-8.
    #[error("{}:{line}: expected UTF-8, found {found}: convert the file", .path.display())]
    Encoding {
        /// The file.
        path: PathBuf,
        /// Line of the file, from 1.
        line: usize,
        /// What is there.
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
        /// What the parser met.
        cause: String,
    },
    /// A file is JSON, but not laid out as its format demands.
    #[error("{}: expected {expected}, found {found}", .path.display())]
    Layout {
        /// The file.
        path: PathBuf,
        /// The layout of the format.
        expected: &'static str,
        /// What the file holds instead.
        found: String,
    },
    /// A row lacks something, or has something that its format does not know.
    #[error("{}, row {row}{}: expected {expected}, found {found}", .path.display(), in_key(key))]
    Row {
        /// The file.
        path: PathBuf,
        /// The row, from 1; in JSON Lines the line of the file.
        row: usize,
        /// Where in the row, such as `Answer.Value` or `messages[2].role`; empty for the whole row.
        key: String,
        /// What belongs there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A file has no rows.
    #[error("{}: expected at least one row, found none", .path.display())]
    NoRows {
        /// The file.
        path: PathBuf,
    },
    /// A name that stands for no [`Format`](crate::Format).
    #[error("expected a data format (alpaca, triviaqa, jsonl), found `{found}`")]
    UnknownFormat {
        /// The name.
        found: String,
    },
    /// `tokenizer.json` is not one that the tokenizers crate understands.
    #[error("{}: expected a Hugging Face tokenizer, found: {cause}", .path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What the tokenizers crate said.
        cause: String,
    },
    /// A folder has a tokenizer of another kind.
    #[error(
        "{}: expected tokenizer.json, found {found} only: load it by transformers' AutoTokenizer and save it, which writes tokenizer.json",
        .folder.display()
    )]
    NoTokenizer {
        /// The model folder.
        folder: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// A configuration names a special token that cannot be used.
    #[error("{}, `{key}`: expected {expected}, found {found}", .path.display())]
    SpecialToken {
        /// The file with the name.
        path: PathBuf,
        /// The entry, such as `eos_token`.
        key: &'static str,
        /// What belongs there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// No file of a model folder says how a text ends.
    #[error(
        "{}: expected `eos_token` in tokenizer_config.json or `eos_token_id` in config.json or \
         generation_config.json, found neither",
        .folder.display()
    )]
    NoEndOfText {
        /// The model folder.
        folder: PathBuf,
    },
    /// The tokenizer knows a token that the model has no embedding for.
    #[error("token `{token}` has id {id}, expected ids below the model's vocab_size of {vocab}")]
    OutsideVocabulary {
        /// The token's text.
        token: String,
        /// Its id.
        id: u32,
        /// Number of tokens the model knows.
        vocab: usize,
    },
    /// The tokenizer cannot turn a text into tokens, or tokens into a text.
    #[error("{}: the tokenizer failed: {cause}", .path.display())]
    Tokenization {
        /// Its file.
        path: PathBuf,
        /// What the tokenizers crate said.
        cause: String,
    },
    /// A text of a conversation holds a noncharacter that has a meaning within this library.
    #[error("a text holds U+{:04X}, which is no character", u32::from(*.found))]
    Noncharacter {
        /// It.
        found: char,
    },
    /// A name that stands for no [`Role`](crate::Role).
    #[error("expected a role (system, user, assistant, tool), found `{found}`")]
    UnknownRole {
        /// The name.
        found: String,
    },
    /// A chat template is not Jinja, refuses a conversation, fails on it, or takes too much.
    #[error("{}, line {line} of the template: {cause}", .path.display())]
    ChatTemplate {
        /// The file that the template stands in.
        path: PathBuf,
        /// Line of the template, from 1; in tokenizer_config.json not a line of the file.
        line: usize,
        /// The template's own message, or what the template engine said.
        cause: String,
    },
    /// A chat template prompts for an answer with another text than the answer follows in its
    /// rendering of the conversation, so that training and use would differ.
    #[error(
        "{}: the prompt for messages[{message}] ends in {prompt:?}, where the conversation with this \
         message goes on with {found:?}: a model trained on it would be asked in another form. Give \
         the folder a template in which both agree",
        .path.display()
    )]
    ChatPrompt {
        /// The file that the template stands in.
        path: PathBuf,
        /// The answer's index.
        message: usize,
        /// How the prompt ends, from where they differ.
        prompt: String,
        /// How the conversation continues there.
        found: String,
    },
    /// A row that cannot be encoded.
    #[error("row {row}: {cause}")]
    InRow {
        /// The row, as in [`Record::row`](crate::Record::row).
        row: usize,
        /// Why not.
        cause: Box<Self>,
    },
    /// A setting is out of range.
    #[error("`{setting}`: expected {expected}, found {found}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// The range.
        expected: &'static str,
        /// The value.
        found: String,
    },
    /// A validation part would leave nothing to train on.
    #[error("expected fewer validation rows than the {rows} rows there are, found {validation}")]
    NothingToTrainOn {
        /// Number of rows in all.
        rows: usize,
        /// Number of rows asked for.
        validation: usize,
    },
    /// A loader without rows.
    #[error("expected at least one example with a supervised token, found none")]
    NoExamples,
    /// A position past the end of an epoch.
    #[error(
        "position {{epoch {}, batch {}}}: expected a batch below {batches_per_epoch}; \
         was it taken with other data or another batch size?",
        .position.epoch, .position.batch
    )]
    NoSuchPosition {
        /// The position.
        position: StreamPosition,
        /// Number of batches in every epoch.
        batches_per_epoch: u64,
    },
    /// Rows that make no batch.
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
    /// Says which row it is about.
    pub(crate) fn in_row(self, row: usize) -> Self {
        Self::InRow {
            row,
            cause: Box::new(self),
        }
    }
}
