//! Tokenization arguments, with notes and warnings.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use clap::Args;
use soft_core::Example;
use soft_data::{ControlText, Record, Tokenizer, encode};

use crate::statusln;

/// How texts are tokenized.
#[derive(Args, Debug, Clone, Default)]
pub struct TokenArgs {
    /// Encode control tokens that texts spell out, such as <|im_start|>, as control tokens, as
    /// transformers does: for texts that a chat template has already rendered. By default they are
    /// encoded as characters, which is safe for untrusted texts
    #[arg(long)]
    pub control_tokens: bool,
}

impl TokenArgs {
    /// The tokenizer of a model folder. Prints a note if settings of the folder could not be used.
    pub fn open(&self, folder: &Path, vocab: usize) -> Result<Tokenizer> {
        let tokenizer = Tokenizer::from_folder(folder, vocab)?;
        if let Some(note) = tokenizer.note() {
            statusln!("note: {note}");
        }
        Ok(tokenizer.with_control_text(if self.control_tokens {
            ControlText::Tokens
        } else {
            ControlText::Characters
        }))
    }
}

/// Encodes the rows of a file, and prints how many were kept and cut.
pub fn encode_rows(
    path: &Path,
    records: &[Record],
    tokenizer: &Tokenizer,
    max_len: usize,
) -> Result<Vec<Example>> {
    let (examples, report) = encode(records, tokenizer, max_len)?;
    statusln!("{}: {report}", path.display());
    warn_of_control_text(&report.control_text);
    Ok(examples)
}

/// Warns of control tokens that were encoded as characters.
pub fn warn_of_control_text(counts: &BTreeMap<String, usize>) {
    let total: usize = counts.values().sum();
    if total == 0 {
        return;
    }
    let mut most: Vec<_> = counts.iter().collect();
    most.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let named = most.iter().take(4);
    let named = named.map(|(token, count)| format!("{count} {token}"));
    let named: Vec<String> = named.collect();
    statusln!(
        "warning: the texts spell {total} control tokens ({}{}), which were encoded as characters; \
         if they were rendered by a chat template, --control-tokens encodes them as control tokens",
        named.join(", "),
        if most.len() > 4 { ", ..." } else { "" }
    );
}

/// Prints a note that names the default chat template, if a folder has none.
pub fn note_default_template(tokenizer: &Tokenizer, folder: &Path) {
    let template = tokenizer.chat_template();
    if template.is_default() {
        let kind = if template.source().contains("<|im_start|>") {
            "ChatML"
        } else {
            "<|role|> lines, each turn ended by the end-of-text token"
        };
        statusln!(
            "note: {} has no chat template: the default is used, {kind}",
            folder.display()
        );
    }
}
