//! Texts to look at exits on: the rows of a file, or a model's own answers to their prompts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use soft_core::Prompt;
use soft_data::{DataError, Format, encode, encode_prompt};
use soft_eval::{AnsweredPrompt, Journal};

use crate::eval_model::{EvalModel, Questions};
use crate::progress::Progress;
use crate::prompts::{PromptArgs, Reader};
use crate::tokens::warn_of_control_text;

/// Which texts.
#[derive(Args, Debug, Clone)]
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
    /// What is read: the full model's own greedy answers, which is what a decoder meets, or the
    /// responses of the rows
    #[arg(long, value_enum, default_value_t = Text::Answers)]
    pub text: Text,
    /// Longest answer or response in tokens
    #[arg(long, default_value_t = 64)]
    pub max_new_tokens: usize,
    /// Prompts decoded at a time
    #[arg(long, default_value_t = 16)]
    pub batch: usize,
}

/// Where the tokens behind a prompt come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Text {
    /// The full model's greedy answers.
    Answers,
    /// The responses of the rows.
    Rows,
}

impl TextArgs {
    /// Refuses numbers that make no texts.
    pub fn check(&self) -> Result<()> {
        ensure!(self.batch > 0, "--batch is 0: expected at least 1");
        ensure!(
            self.max_new_tokens > 0,
            "--max-new-tokens is 0: expected at least 1"
        );
        ensure!(self.limit != Some(0), "--limit is 0: expected at least 1");
        Ok(())
    }

    /// What tables call these texts.
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

    /// The tokens of every prompt.
    pub fn read_prompts(
        &self,
        subject: &EvalModel,
        folder: &std::path::Path,
    ) -> Result<Vec<Prompt>> {
        let source = PromptArgs {
            prompt: None,
            chat: None,
            prompts: Some(self.prompts.clone()),
            format: self.format,
            limit: self.limit,
            seed: 0,
        };
        source.read(&Reader {
            folder,
            tokenizer: &subject.tokenizer,
            context: subject.model.config().max_positions,
        })
    }

    /// Prompts with what follows them; those without anything are left out.
    pub fn read(
        &self,
        subject: &EvalModel,
        folder: &std::path::Path,
        journal: &mut Journal,
    ) -> Result<Vec<AnsweredPrompt>> {
        let mut texts = match self.text {
            Text::Answers => {
                let prompts = self.read_prompts(subject, folder)?;
                answered(subject, &tokens(&prompts), self, journal)?
            }
            Text::Rows => self.rows(subject)?,
        };
        // What the prompt's pass names is the full model's whatever the policy: there must be more.
        texts.retain(|text| text.decisions() > 1);
        ensure!(
            !texts.is_empty(),
            "{} has no text to read",
            self.prompts.display()
        );
        Ok(texts)
    }

    fn rows(&self, subject: &EvalModel) -> Result<Vec<AnsweredPrompt>> {
        let format = self.format;
        ensure!(
            format.is_some(),
            "--text rows reads the responses of rows: give their --format"
        );
        let mut records = match format {
            Some(format) => format.read(&self.prompts)?,
            None => Vec::new(),
        };
        records.truncate(self.limit.unwrap_or(usize::MAX));
        let context = subject.model.config().max_positions;
        let (mut texts, mut spelt) = (Vec::new(), BTreeMap::new());
        for record in &records {
            let prompt = encode_prompt(record, &subject.tokenizer)?;
            ensure!(
                !prompt.is_empty(),
                "row {} of {}: a text without a prompt begins with no token to go on from",
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
                *spelt.entry(token).or_default() += count;
            }
            // Of a conversation the last answer.
            let Some(example) = examples.last() else {
                continue;
            };
            let marked = example.tokens().iter().zip(example.supervised());
            let answer = marked.skip(prompt.len()).take_while(|(_, learnt)| **learnt);
            let answer: Vec<u32> = answer.map(|(token, _)| *token).collect();
            // The last token is the end of the text, unless the row was cut.
            let whole = answer
                .split_last()
                .filter(|(last, _)| subject.tokenizer.stop_tokens().contains(last));
            let (said, ended) = whole.map_or((&answer[..], false), |(_, said)| (said, true));
            let cut = said.len() > self.max_new_tokens;
            texts.push(AnsweredPrompt {
                prompt,
                answer: said.iter().take(self.max_new_tokens).copied().collect(),
                ended: ended && !cut,
            });
        }
        warn_of_control_text(&spelt);
        Ok(texts)
    }
}

/// The tokens of prompts.
pub fn tokens(prompts: &[Prompt]) -> Vec<Vec<u32>> {
    prompts.iter().map(|prompt| prompt.tokens.clone()).collect()
}

/// The full model's greedy answers.
fn answered(
    subject: &EvalModel,
    prompts: &[Vec<u32>],
    args: &TextArgs,
    journal: &mut Journal,
) -> Result<Vec<AnsweredPrompt>> {
    let questions = Questions {
        prompts,
        exits: None,
        max_new_tokens: args.max_new_tokens,
        batch: args.batch,
    };
    let mut progress = Progress::new("answering", prompts.len() as u64, 0);
    let answers = subject.answers("full", &questions, journal, || progress.step(&subject.name))?;
    progress.finish();
    let pairs = prompts.iter().zip(answers);
    let pair = |(prompt, answer): (&Vec<u32>, crate::eval_model::Answer)| AnsweredPrompt {
        prompt: prompt.clone(),
        answer: answer.tokens,
        ended: answer.ended,
    };
    Ok(pairs.map(pair).collect())
}
