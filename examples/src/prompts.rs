//! Prompts to decode: from the command line, from a file of prompts, or from a file of rows.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{ArgGroup, Args};
use soft_core::Prompt;
use soft_data::{Conversation, Format, PromptBody, Record, Tokenizer, read_prompts};

use crate::tokens::{note_default_template, warn_of_control_text};

/// Where prompts come from: exactly one source.
#[derive(Args, Debug, Clone)]
#[command(group(ArgGroup::new("source").required(true)))]
pub struct PromptArgs {
    /// Text to continue
    #[arg(long, group = "source")]
    pub prompt: Option<String>,
    /// A user's message, rendered with the model's chat template
    #[arg(long, group = "source")]
    pub chat: Option<String>,
    /// File of prompts: a JSON array or JSON lines of {"prompt"}, {"messages": [{"role",
    /// "content"}]} or {"instruction", "input"}
    #[arg(long, group = "source")]
    pub prompts: Option<PathBuf>,
    /// Read --prompts as training rows of this format, and use their prompts: alpaca, triviaqa or
    /// jsonl
    #[arg(long, requires = "prompts")]
    pub format: Option<Format>,
    /// Use the first N prompts only
    #[arg(long)]
    pub limit: Option<usize>,
    /// Seed of the first prompt's sampler; each further prompt adds one
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// Encodes prompts for a model.
pub struct Reader<'a> {
    /// The model's folder, which may hold a chat template.
    pub folder: &'a Path,
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Maximum number of tokens of a text.
    pub context: usize,
}

impl PromptArgs {
    /// Reads and encodes the prompts: at least one, each with at least one token and within the
    /// context.
    pub fn read(&self, reader: &Reader) -> Result<Vec<Prompt>> {
        ensure!(self.limit != Some(0), "--limit is 0: expected at least 1");
        let limit = self.limit.unwrap_or(usize::MAX);
        let tokens = match (&self.prompt, &self.chat, &self.prompts) {
            (Some(text), ..) => {
                ensure!(!text.is_empty(), "--prompt is empty: expected some text");
                reader.encode(&[PromptBody::Text(text.clone())])?
            }
            (_, Some(text), _) => {
                reader.encode(&[PromptBody::Chat(Conversation::question(text))])?
            }
            (_, _, Some(path)) => {
                let mut prompts = match self.format {
                    Some(format) => format.read(path)?.iter().map(Record::prompt).collect(),
                    None => read_prompts(path)?,
                };
                prompts.truncate(limit);
                reader.encode(&prompts)?
            }
            _ => bail!("no prompt: expected --prompt, --chat or --prompts"),
        };
        let numbered = tokens.into_iter().enumerate();
        numbered
            .map(|(index, tokens)| {
                let (number, length) = (index + 1, tokens.len());
                ensure!(
                    length > 0,
                    "prompt {number} has no tokens: expected some text"
                );
                ensure!(
                    length <= reader.context,
                    "prompt {number} has {length} tokens: the model's context holds {}",
                    reader.context
                );
                Ok(Prompt {
                    tokens,
                    seed: self.seed.wrapping_add(index as u64),
                })
            })
            .collect()
    }
}

impl Reader<'_> {
    /// Encodes prompts. Prints notes and warnings about chat template and control tokens.
    fn encode(&self, prompts: &[PromptBody]) -> Result<Vec<Vec<u32>>> {
        let is_chat = |prompt: &PromptBody| matches!(prompt, PromptBody::Chat(_));
        if prompts.iter().any(is_chat) {
            note_default_template(self.tokenizer, self.folder);
        }
        warn_of_control_text(&self.tokenizer.control_text_of(prompts));
        let numbered = (1..).zip(prompts);
        let tokens = numbered.map(|(number, prompt)| {
            let tokens = prompt.encode(self.tokenizer);
            tokens.with_context(|| format!("prompt {number}"))
        });
        tokens.collect()
    }
}
