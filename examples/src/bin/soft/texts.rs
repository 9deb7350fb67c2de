//! Texts to compare exits on: the responses in a file of rows, or answers of the model to prompts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use soft_core::{Exits, Prompt};
use soft_data::{DataError, Format, encode, encode_prompt};
use soft_eval::{AnsweredPrompt, Journal};
use soft_examples::eval_model::{EvalModel, Questions};
use soft_examples::progress::Progress;
use soft_examples::prompts::PromptArgs;
use soft_examples::tokens::warn_of_control_text;

/// Which texts.
#[derive(clap::Args, Debug, Clone)]
pub struct TextArgs {
    /// File of prompts, or of rows with --format
    #[arg(long)]
    pub prompts: PathBuf,
    /// Layout of rows: alpaca, triviaqa or jsonl
    #[arg(long)]
    pub format: Option<Format>,
    /// Use the first N only
    #[arg(long)]
    pub limit: Option<usize>,
    /// Which texts follow the prompts: the full model's own greedy answers, as in decoding, or the
    /// responses of the rows
    #[arg(long, value_enum, default_value_t = Text::Answers)]
    pub text: Text,
    /// Maximum number of tokens of an answer or a response
    #[arg(long, default_value_t = 64)]
    pub max_new_tokens: usize,
    /// Prompts decoded at a time
    #[arg(long, default_value_t = 16)]
    pub batch: usize,
}

/// Where the tokens after a prompt come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Text {
    /// The full model's greedy answers.
    Answers,
    /// The responses of the rows.
    Rows,
}

impl TextArgs {
    /// Refuses numbers that leave no texts.
    pub fn check(&self) -> Result<()> {
        ensure!(self.batch > 0, "--batch is 0: expected at least 1");
        ensure!(
            self.max_new_tokens > 0,
            "--max-new-tokens is 0: expected at least 1"
        );
        ensure!(self.limit != Some(0), "--limit is 0: expected at least 1");
        Ok(())
    }

    /// The name of these texts in tables.
    pub fn name(&self) -> String {
        let file = self
            .prompts
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy();
        match self.text {
            Text::Answers => format!("answers to {file}"),
            Text::Rows => file.into_owned(),
        }
    }

    fn read_prompts(&self, subject: &EvalModel) -> Result<Vec<Prompt>> {
        let source = PromptArgs {
            prompt: None,
            chat: None,
            prompts: Some(self.prompts.clone()),
            format: self.format,
            limit: self.limit,
            seed: 0,
        };
        source.read(&subject.reader())
    }

    /// Prompts with the texts that follow them, without those that have no token to compare.
    pub fn read(&self, subject: &EvalModel, journal: &mut Journal) -> Result<Vec<AnsweredPrompt>> {
        let mut texts = match self.text {
            Text::Answers => {
                let prompts = self.read_prompts(subject)?.into_iter();
                let prompts: Vec<Vec<u32>> = prompts.map(|prompt| prompt.tokens).collect();
                answered(subject, &prompts, ("full", None), self, journal)?
            }
            Text::Rows => self.rows(subject)?,
        };
        // The pass over the prompt generates the first token at full depth under every policy.
        texts.retain(|text| text.decisions() > 1);
        ensure!(
            !texts.is_empty(),
            "{} has no text to read",
            self.prompts.display()
        );
        Ok(texts)
    }

    /// The texts that decoding in `mode` writes for these prompts, without those that have no token
    /// to compare.
    pub fn decoded(
        &self,
        subject: &EvalModel,
        prompts: &[Vec<u32>],
        mode: (&str, &Exits),
        journal: &mut Journal,
    ) -> Result<Vec<AnsweredPrompt>> {
        let mode = (mode.0, Some(mode.1));
        let mut texts = answered(subject, prompts, mode, self, journal)?;
        texts.retain(|text| text.decisions() > 1);
        Ok(texts)
    }

    fn rows(&self, subject: &EvalModel) -> Result<Vec<AnsweredPrompt>> {
        let format = self
            .format
            .context("--text rows uses the responses of rows: give their --format")?;
        let mut records = format.read(&self.prompts)?;
        records.truncate(self.limit.unwrap_or(usize::MAX));
        let context = subject.model.config().max_positions;
        let (mut texts, mut control_text) = (Vec::new(), BTreeMap::new());
        for record in &records {
            let prompt = encode_prompt(record, &subject.tokenizer)?;
            ensure!(
                !prompt.is_empty(),
                "row {} of {}: a text without a prompt has no token to continue from",
                record.row,
                self.prompts.display()
            );
            let row = std::slice::from_ref(record);
            let (examples, report) = match encode(row, &subject.tokenizer, context) {
                // The prompt alone fills the context.
                Err(DataError::NoExamples) => continue,
                encoded => encoded?,
            };
            for (token, count) in report.control_text {
                *control_text.entry(token).or_default() += count;
            }
            // In a conversation, the last answer.
            let Some(example) = examples.last() else {
                continue;
            };
            let marked = example.tokens().iter().zip(example.supervised());
            let answer = marked
                .skip(prompt.len())
                .take_while(|(_, supervised)| **supervised);
            let answer: Vec<u32> = answer.map(|(token, _)| *token).collect();
            // The last token is a stop token, unless the row was cut.
            let whole = answer
                .split_last()
                .filter(|(last, _)| subject.tokenizer.stop_tokens().contains(last));
            let (text, ended) = whole.map_or((&answer[..], false), |(_, text)| (text, true));
            let cut = text.len() > self.max_new_tokens;
            texts.push(AnsweredPrompt {
                prompt,
                answer: text.iter().take(self.max_new_tokens).copied().collect(),
                ended: ended && !cut,
            });
        }
        warn_of_control_text(&control_text);
        Ok(texts)
    }
}

fn answered(
    subject: &EvalModel,
    prompts: &[Vec<u32>],
    (mode, exits): (&str, Option<&Exits>),
    args: &TextArgs,
    journal: &mut Journal,
) -> Result<Vec<AnsweredPrompt>> {
    let questions = Questions {
        prompts,
        exits,
        max_new_tokens: args.max_new_tokens,
        batch: args.batch,
    };
    let mut progress = Progress::new("answering", prompts.len() as u64, 0);
    let answers = subject.answers(mode, &questions, journal, || progress.step(&subject.name))?;
    progress.finish();
    let pairs = prompts.iter().zip(answers);
    let texts = pairs.map(|(prompt, answer)| AnsweredPrompt {
        prompt: prompt.clone(),
        answer: answer.tokens,
        ended: answer.ended,
    });
    Ok(texts.collect())
}
