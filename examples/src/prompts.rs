//! Prompts to decode: from the command line, from a file of prompts, or from a file of rows.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Deserialize;
use soft_core::Prompt;
use soft_data::{ChatTemplate, Format, Message, Role, Tokenizer, alpaca_prompt, encode_prompt};

/// Where prompts come from: exactly one source.
#[derive(Args, Debug, Clone)]
pub struct PromptArgs {
    /// Text to go on from
    #[arg(long, group = "source")]
    pub prompt: Option<String>,
    /// What the user says, put into the model's chat template
    #[arg(long, group = "source")]
    pub chat: Option<String>,
    /// File of prompts: a JSON array or JSON lines of {"prompt"}, {"messages": [{"role", "content"}]} or {"instruction", "input"}
    #[arg(long, group = "source")]
    pub prompts: Option<PathBuf>,
    /// Read --prompts as training rows of this format instead, and go on from their prompts: alpaca, triviaqa or jsonl
    #[arg(long, requires = "prompts")]
    pub format: Option<Format>,
    /// Use the first N prompts only
    #[arg(long)]
    pub limit: Option<usize>,
    /// Seed of the first prompt's sampler; every further prompt has one more
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// One entry of a file of prompts. Other keys are ignored.
#[derive(Deserialize)]
struct Entry {
    prompt: Option<String>,
    messages: Option<Vec<Turn>>,
    instruction: Option<String>,
    input: Option<String>,
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    content: String,
}

/// What prompts are made for: a model's folder, its tokenizer, its context.
pub struct Reader<'a> {
    /// The model's folder, which may hold a chat template.
    pub folder: &'a Path,
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Most positions of a text.
    pub context: usize,
}

impl PromptArgs {
    /// The prompts' tokens: at least one prompt, each with at least one token and within the context.
    pub fn read(&self, reader: &Reader) -> Result<Vec<Prompt>> {
        ensure!(self.limit != Some(0), "--limit is 0: expected at least 1");
        let limit = self.limit.unwrap_or(usize::MAX);
        let tokens = if let Some(text) = &self.prompt {
            ensure!(!text.is_empty(), "--prompt is empty: expected some text");
            vec![reader.tokenizer.encode_start(text)?]
        } else if let Some(text) = &self.chat {
            let said = Message {
                role: Role::User,
                content: text.clone(),
            };
            vec![reader.chat(&ChatTemplate::from_folder(reader.folder)?, &[said])?]
        } else if let Some(path) = &self.prompts {
            let prompts = match self.format {
                Some(format) => reader.rows(format, path, limit),
                None => reader.entries(path, limit),
            };
            prompts.with_context(|| path.display().to_string())?
        } else {
            bail!("nothing to go on from: give --prompt, --chat or --prompts");
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
    fn rows(&self, format: Format, path: &Path, limit: usize) -> Result<Vec<Vec<u32>>> {
        let records = format.read(path)?;
        let prompts = records.iter().take(limit);
        Ok(prompts
            .map(|record| encode_prompt(record, self.tokenizer))
            .collect::<Result<_, _>>()?)
    }

    fn entries(&self, path: &Path, limit: usize) -> Result<Vec<Vec<u32>>> {
        let text = std::fs::read_to_string(path).context("cannot read the file")?;
        let mut entries = entries(text.trim_start_matches('\u{feff}'))?;
        ensure!(!entries.is_empty(), "the file holds no prompt");
        entries.truncate(limit);
        let template = match entries.iter().any(|entry| entry.messages.is_some()) {
            true => Some(ChatTemplate::from_folder(self.folder)?),
            false => None,
        };
        let numbered = entries.iter().enumerate();
        let prompts = numbered.map(|(index, entry)| {
            self.entry(entry, template.as_ref())
                .with_context(|| format!("prompt {}", index + 1))
        });
        prompts.collect()
    }

    fn entry(&self, entry: &Entry, template: Option<&ChatTemplate>) -> Result<Vec<u32>> {
        match (&entry.prompt, &entry.messages, &entry.instruction, template) {
            (Some(prompt), None, None, _) => {
                ensure!(!prompt.is_empty(), "the prompt is empty");
                Ok(self.tokenizer.encode_start(prompt)?)
            }
            (None, Some(turns), None, Some(template)) => {
                let message = |turn: &Turn| -> Result<Message> {
                    Ok(Message {
                        role: turn.role.parse()?,
                        content: turn.content.clone(),
                    })
                };
                let messages = turns.iter().map(message).collect::<Result<Vec<_>>>()?;
                self.chat(template, &messages)
            }
            (None, None, Some(instruction), _) => {
                let input = entry.input.as_deref().unwrap_or_default();
                Ok(self
                    .tokenizer
                    .encode_start(&alpaca_prompt(instruction, input))?)
            }
            _ => bail!("expected exactly one of `prompt`, `messages` and `instruction`"),
        }
    }

    fn chat(&self, template: &ChatTemplate, messages: &[Message]) -> Result<Vec<u32>> {
        let rendered = template.render_prompt(messages)?;
        ensure!(
            !rendered.is_empty(),
            "the chat template makes no text of the conversation"
        );
        Ok(self.tokenizer.encode_chat(&rendered)?)
    }
}

/// Something to do, and what to do it with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What is asked.
    pub instruction: String,
    /// Material that it is about; may be empty.
    pub input: String,
}

/// The first `limit` instructions of a file: a JSON array or JSON lines of {"instruction", "input"}.
pub fn read_instructions(path: &Path, limit: usize) -> Result<Vec<Instruction>> {
    let read = || -> Result<Vec<Instruction>> {
        let text = std::fs::read_to_string(path).context("cannot read the file")?;
        let entries = entries(text.trim_start_matches('\u{feff}'))?;
        ensure!(!entries.is_empty(), "the file holds no instruction");
        let numbered = entries.into_iter().take(limit).enumerate();
        let instructions = numbered.map(|(index, entry)| {
            let missing = || format!("entry {} has no `instruction`", index + 1);
            Ok(Instruction {
                instruction: entry.instruction.with_context(missing)?,
                input: entry.input.unwrap_or_default(),
            })
        });
        instructions.collect()
    };
    read().with_context(|| path.display().to_string())
}

fn entries(text: &str) -> Result<Vec<Entry>> {
    if text.trim_start().starts_with('[') {
        return Ok(serde_json::from_str(text)?);
    }
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            serde_json::from_str(line).with_context(|| format!("line {}", index + 1))
        })
        .collect()
}
