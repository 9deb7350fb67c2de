//! Decodes prompts and prints the answers as a stream, whole, or as JSON, optionally colored by
//! exit.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};

use anyhow::{Context, Result};
use serde_json::json;
use soft_core::decode::{Finish, Statistics, Step, Tuner};
use soft_core::{Decoder, Prompt};
use soft_data::{StopStrings, TextStream};
use soft_examples::decoding::{DecodingArgs, keep_tuner};
use soft_examples::device_profile::ProfileLines;
use soft_examples::kernels::CompilationProgress;
use soft_examples::model::{ModelArgs, OpenModel};
use soft_examples::{statusln, terminal};

use crate::statistics::print_statistics;

/// The arguments of the subcommands that decode for a reader.
#[derive(clap::Args, Debug)]
pub struct AnswerArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub decoding: DecodingArgs,
    /// Text that ends an answer; may be given several times
    #[arg(long)]
    stop: Vec<String>,
    /// Color every token by its exit: blue is shallow, red is deep
    #[arg(long, alias = "colour")]
    color: bool,
}

/// How answers are shown.
#[derive(Clone, Copy, PartialEq)]
pub enum Show {
    /// The one prompt, then its answer as it is decoded.
    PromptAndStream,
    /// The one answer as it is decoded.
    Stream,
    /// Each answer when it is complete, numbered.
    Blocks,
    /// Each answer when it is complete, as a JSON object on a line.
    Json,
}

/// Decodes prompts and shows the answers.
pub struct Answers<'a> {
    model: &'a OpenModel,
    args: &'a AnswerArgs,
    show: Show,
    stops: StopStrings,
    tuner: Option<Tuner>,
    /// Sum over all answers so far.
    pub statistics: Statistics,
    /// Number of answers so far.
    pub count: usize,
    /// Printed for every token.
    pub profile: Option<ProfileLines>,
}

impl<'a> Answers<'a> {
    /// Prints the exit rule, if the mode has one that is not part of its name, and a warning if it
    /// is used beyond its guarantee.
    pub fn new(model: &'a OpenModel, args: &'a AnswerArgs, show: Show) -> Result<Self> {
        if let Some(rule) = args.decoding.chosen_rule(&model.trained)? {
            statusln!("exits by {rule}");
        }
        if let Some(warning) = args.decoding.beyond_guarantee(&model.trained)? {
            statusln!("{warning}");
        }
        Ok(Self {
            model,
            args,
            show,
            stops: StopStrings::new(args.stop.clone())?,
            tuner: None,
            statistics: Statistics::default(),
            count: 0,
            profile: None,
        })
    }

    /// Decodes one batch with a new cache, prints the answers and returns their texts.
    pub fn answer(&mut self, prompts: &[Prompt]) -> Result<Vec<String>> {
        let OpenModel {
            model,
            tokenizer,
            trained,
            ..
        } = self.model;
        let mut settings = self.args.decoding.settings(trained, tokenizer)?;
        keep_tuner(&mut settings, &mut self.tuner);
        let mut decoder = Decoder::new(model, prompts, settings)?;
        let answers = prompts.iter().map(|prompt| self.begin(prompt));
        let mut answers = answers.collect::<Result<Vec<_>>>()?;
        let mut blocks = vec![String::new(); prompts.len()];
        let mut is_begun = vec![self.show == Show::PromptAndStream; prompts.len()];
        if self.show == Show::PromptAndStream {
            print(&for_terminal(&tokenizer.decode(&prompts[0].tokens)?))?;
        }
        let mut compiling = Some(CompilationProgress::start());
        while let Some(step) = decoder.next() {
            let step = step?;
            drop(compiling.take());
            if let Some(profile) = &mut self.profile {
                profile.keep_lap();
            }
            let answer = &mut answers[step.row];
            let text = answer.push(&step)?;
            if answer.is_stopped {
                decoder.stop(step.row);
            }
            let text = for_terminal(&text);
            let mut shown = &*text;
            if !is_begun[step.row] {
                // Without its prompt, an answer is printed without the space before it.
                shown = shown.trim_start();
                is_begun[step.row] = !shown.is_empty();
            }
            let painted = self.paint(shown, step.exit.depth());
            match self.show {
                Show::PromptAndStream | Show::Stream => print(&painted)?,
                Show::Blocks | Show::Json => blocks[step.row].push_str(&painted),
            }
        }
        for (row, answer) in answers.iter_mut().enumerate() {
            let rest = if answer.is_stopped {
                String::new()
            } else {
                answer.finish()?
            };
            let rest = for_terminal(&rest);
            self.count += 1;
            print(&match self.show {
                Show::PromptAndStream | Show::Stream => format!("{rest}\n"),
                Show::Blocks => format!("--- {}\n{}{rest}\n", self.count, blocks[row]),
                Show::Json => format!("{}\n", answer.json(&prompts[row], decoder.finish(row))),
            })?;
        }
        self.statistics.add(decoder.statistics());
        self.tuner = decoder.into_tuner();
        Ok(answers.into_iter().map(|answer| answer.text).collect())
    }

    /// Prints what the answers cost.
    pub fn print_statistics(&self) {
        print_statistics(&self.statistics, self.model.trained.depth);
        for (depth, rate) in self.tuner.iter().flat_map(Tuner::acceptance) {
            let rate = rate.map_or("not tried".to_owned(), |rate| {
                format!("{:.0} %", 100.0 * rate)
            });
            statusln!("recent drafts of exit {depth} accepted: {rate}");
        }
    }

    fn begin(&self, prompt: &Prompt) -> Result<Answer<'a>> {
        Ok(Answer {
            stream: TextStream::after(&self.model.tokenizer, &prompt.tokens)?,
            stops: self.stops.clone(),
            is_stopped: false,
            text: String::new(),
            tokens: Vec::new(),
            exits: Vec::new(),
        })
    }

    /// Colors from blue to red in the 256-color palette of terminals. Text held back for the rest
    /// of a character or a possible stop string has the color of the token that released it.
    fn paint(&self, text: &str, depth: usize) -> String {
        if !self.args.color || self.show == Show::Json || text.is_empty() {
            return text.to_owned();
        }
        let steps = [
            27, 33, 39, 45, 50, 48, 46, 118, 190, 226, 214, 208, 202, 196,
        ];
        let index = depth * (steps.len() - 1) / self.model.trained.depth.max(1);
        format!("\x1b[38;5;{}m{text}\x1b[0m", steps[index])
    }
}

struct Answer<'a> {
    stream: TextStream<'a>,
    stops: StopStrings,
    is_stopped: bool,
    text: String,
    tokens: Vec<u32>,
    exits: Vec<usize>,
}

impl Answer<'_> {
    /// Adds a token and returns the text that can be printed.
    fn push(&mut self, step: &Step) -> Result<String> {
        self.tokens.push(step.token);
        self.exits.push(step.exit.depth());
        let text = self.stream.push(step.token)?;
        Ok(self.pass(&text))
    }

    /// Returns the text that was held back.
    fn finish(&mut self) -> Result<String> {
        let text = self.stream.clone().finish()?;
        let mut passed = self.pass(&text);
        let held = self.stops.clone().finish();
        self.text.push_str(&held);
        passed.push_str(&held);
        Ok(passed)
    }

    fn pass(&mut self, text: &str) -> String {
        let passed = self.stops.push(text);
        self.is_stopped |= passed.stopped;
        self.text.push_str(&passed.text);
        passed.text
    }

    /// `tokens` contains all generated tokens, including those of a stop string, which is not in
    /// `text`.
    fn json(&self, prompt: &Prompt, finish: Option<Finish>) -> serde_json::Value {
        let finish = if self.is_stopped {
            Some("StopString".to_owned())
        } else {
            finish.map(|finish| format!("{finish:?}"))
        };
        json!({
            "prompt": prompt.tokens,
            "tokens": self.tokens,
            "exits": self.exits,
            "text": self.text,
            "finish": finish,
        })
    }
}

/// Prints text without a line break, and flushes.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.context("cannot write to standard output")
}

/// Removes escape codes from the text of a model if it is printed to a terminal.
fn for_terminal(text: &str) -> Cow<'_, str> {
    if std::io::stdout().is_terminal() {
        terminal::clean(text)
    } else {
        Cow::Borrowed(text)
    }
}
