//! Shows answers as they are decoded: streamed, in blocks, or as JSON; colored by depth if wanted.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};

use anyhow::{Context, Result};
use serde_json::json;
use soft_burn::Llama;
use soft_core::decode::{Finish, Step};
use soft_core::{Decoder, Prompt};
use soft_data::{StopStrings, TextStream, Tokenizer};
use soft_examples::terminal;

/// How answers are shown.
#[derive(Clone, Copy, PartialEq)]
pub enum Show {
    /// As they come, of one prompt, behind that prompt.
    PromptAndStream,
    /// As they come, of one prompt.
    Stream,
    /// Whole, numbered.
    Blocks,
    /// Whole, one JSON object each.
    Json,
}

/// Shows answers.
pub struct Printer<'a> {
    pub tokenizer: &'a Tokenizer,
    pub stops: StopStrings,
    /// Blocks of the model, for colors by depth; without colors none.
    pub colors: Option<usize>,
    pub show: Show,
    pub answered: usize,
}

/// Prints and flushes text as it is.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.context("cannot write to standard output")
}

/// A model's text as it is shown: on a terminal without the escape codes that it may hold.
fn for_terminal(text: &str) -> Cow<'_, str> {
    if std::io::stdout().is_terminal() {
        terminal::clean(text)
    } else {
        Cow::Borrowed(text)
    }
}

/// The answer to one prompt so far.
struct Answer<'a> {
    stream: TextStream<'a>,
    stops: StopStrings,
    stopped: bool,
    text: String,
    tokens: Vec<u32>,
    exits: Vec<usize>,
}

impl Answer<'_> {
    /// Takes a token; returns the text that became certain.
    fn push(&mut self, step: &Step) -> Result<String> {
        self.tokens.push(step.token);
        self.exits.push(step.exit.depth());
        let text = self.stream.push(step.token)?;
        Ok(self.pass(&text))
    }

    /// The text that was held back, at the end.
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
        self.stopped |= passed.stopped;
        self.text.push_str(&passed.text);
        passed.text
    }

    /// `tokens` are all that were generated, those of a stop string included; `text` ends before
    /// it.
    fn json(&self, prompt: &Prompt, finish: Option<Finish>) -> serde_json::Value {
        let finish = match finish {
            _ if self.stopped => Some("StopString".to_owned()),
            finish => finish.map(|finish| format!("{finish:?}")),
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

impl<'a> Printer<'a> {
    /// Decodes one batch, shows the answers and returns their texts.
    pub fn answer(
        &mut self,
        prompts: &[Prompt],
        decoder: &mut Decoder<Llama>,
    ) -> Result<Vec<String>> {
        let answers = prompts.iter().map(|prompt| self.begin(prompt));
        let mut answers = answers.collect::<Result<Vec<_>>>()?;
        let mut blocks = vec![String::new(); prompts.len()];
        let mut begun = vec![self.show == Show::PromptAndStream; prompts.len()];
        if self.show == Show::PromptAndStream {
            print(&for_terminal(&self.tokenizer.decode(&prompts[0].tokens)?))?;
        }
        while let Some(step) = decoder.next() {
            let step = step?;
            let answer = &mut answers[step.row];
            let text = answer.push(&step)?;
            if answer.stopped {
                decoder.stop(step.row);
            }
            let text = for_terminal(&text);
            // An answer that is shown without its prompt does not start with the space between
            // them.
            let text = if begun[step.row] {
                &text
            } else {
                text.trim_start()
            };
            begun[step.row] |= !text.is_empty();
            let painted = self.paint(text, step.exit.depth());
            match self.show {
                Show::PromptAndStream | Show::Stream => print(&painted)?,
                Show::Blocks | Show::Json => blocks[step.row].push_str(&painted),
            }
        }
        for (row, answer) in answers.iter_mut().enumerate() {
            let rest = if answer.stopped {
                String::new()
            } else {
                answer.finish()?
            };
            self.answered += 1;
            let shown = match self.show {
                Show::PromptAndStream | Show::Stream => format!("{rest}\n"),
                Show::Json => format!("{}\n", answer.json(&prompts[row], decoder.finish(row))),
                Show::Blocks => format!("--- {}\n{}{rest}\n", self.answered, blocks[row]),
            };
            print(&shown)?;
        }
        Ok(answers.into_iter().map(|answer| answer.text).collect())
    }

    fn begin(&self, prompt: &Prompt) -> Result<Answer<'a>> {
        Ok(Answer {
            stream: TextStream::after(self.tokenizer, &prompt.tokens)?,
            stops: self.stops.clone(),
            stopped: false,
            text: String::new(),
            tokens: Vec::new(),
            exits: Vec::new(),
        })
    }

    /// From blue to red through the color cube of 256-color terminals. Text that had to wait, for
    /// the rest of a character or a possible stop string, has the color of the token that completed
    /// it.
    fn paint(&self, text: &str, depth: usize) -> String {
        let Some(full) = self.colors.filter(|_| !text.is_empty()) else {
            return text.to_owned();
        };
        let steps = [
            27, 33, 39, 45, 50, 48, 46, 118, 190, 226, 214, 208, 202, 196,
        ];
        let index = depth * (steps.len() - 1) / full.max(1);
        format!("\x1b[38;5;{}m{text}\x1b[0m", steps[index])
    }
}
