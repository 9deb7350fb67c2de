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
    /// Read --prompts as rows of this format instead: alpaca, triviaqa or jsonl
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
    #[serde(default)]
    input: String,
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    content: String,
}

impl PromptArgs {
    /// The prompts' tokens.
    pub fn read(&self, folder: &Path, tokenizer: &Tokenizer) -> Result<Vec<Prompt>> {
        let mut tokens = if let Some(text) = &self.prompt {
            ensure!(!text.is_empty(), "--prompt is empty: expected some text");
            vec![tokenizer.encode_start(text)?]
        } else if let Some(text) = &self.chat {
            let said = Message {
                role: Role::User,
                content: text.clone(),
            };
            vec![chat(folder, tokenizer, &[said])?]
        } else if let Some(path) = &self.prompts {
            self.read_file(path, folder, tokenizer)?
        } else {
            bail!("nothing to go on from: give --prompt, --chat or --prompts");
        };
        if let Some(limit) = self.limit {
            tokens.truncate(limit);
        }
        let seeded = tokens.into_iter().zip(self.seed..);
        Ok(seeded
            .map(|(tokens, seed)| Prompt { tokens, seed })
            .collect())
    }

    fn read_file(
        &self,
        path: &Path,
        folder: &Path,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<Vec<u32>>> {
        if let Some(format) = self.format {
            let records = format.read(path)?;
            let prompts = records
                .iter()
                .map(|record| encode_prompt(record, tokenizer));
            return Ok(prompts.collect::<Result<_, _>>()?);
        }
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let entries = entries(&text).with_context(|| path.display().to_string())?;
        ensure!(!entries.is_empty(), "{} holds no prompt", path.display());
        let numbered = entries.iter().enumerate();
        let prompts = numbered.map(|(index, entry)| {
            encode_entry(entry, folder, tokenizer)
                .with_context(|| format!("{}, prompt {}", path.display(), index + 1))
        });
        prompts.collect()
    }
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

fn encode_entry(entry: &Entry, folder: &Path, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    match (&entry.prompt, &entry.messages, &entry.instruction) {
        (Some(prompt), None, None) => {
            ensure!(!prompt.is_empty(), "the prompt is empty");
            Ok(tokenizer.encode_start(prompt)?)
        }
        (None, Some(turns), None) => {
            let message = |turn: &Turn| -> Result<Message> {
                Ok(Message {
                    role: turn.role.parse()?,
                    content: turn.content.clone(),
                })
            };
            let messages = turns.iter().map(message).collect::<Result<Vec<_>>>()?;
            chat(folder, tokenizer, &messages)
        }
        (None, None, Some(instruction)) => {
            Ok(tokenizer.encode_start(&alpaca_prompt(instruction, &entry.input))?)
        }
        _ => bail!("expected exactly one of `prompt`, `messages` and `instruction`"),
    }
}

fn chat(folder: &Path, tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<u32>> {
    let rendered = ChatTemplate::from_folder(folder)?.render_prompt(messages)?;
    Ok(tokenizer.encode_chat(&rendered)?)
}
