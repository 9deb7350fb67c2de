//! Generates text at any depth of a model: one exit, exits token by token, self-speculation, or what is
//! fastest here. Streams the text, optionally coloured by the depth that named each token, and says what it cost.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::json;
use soft_burn::Llama;
use soft_core::decode::{Finish, Statistics, Step, Tuner};
use soft_core::{Decoder, Prompt};
use soft_data::{StopStrings, TextStream, Tokenizer};
use soft_examples::decoding::{DecodingArgs, Trained, keep_what_was_learnt};
use soft_examples::device::{PlaceArgs, listed};
use soft_examples::hub::model_folder;
use soft_examples::model;
use soft_examples::prompts::{PromptArgs, Reader};
use soft_examples::statistics::print_statistics;
use soft_examples::statusln;
use soft_examples::terminal;
use soft_examples::tokens::TokenArgs;

#[derive(Parser, Debug)]
#[command(about = "Generate text at any depth of a model")]
struct Args {
    /// Model folder, or org/name[@revision] of a hub
    #[arg(long)]
    model: PathBuf,
    #[command(flatten)]
    source: PromptArgs,
    #[command(flatten)]
    decoding: DecodingArgs,
    /// Text that ends an answer; may be given several times
    #[arg(long)]
    stop: Vec<String>,
    /// Prompts decoded at a time
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Colour every token by the depth that named it: blue is shallow, red is deep
    #[arg(long, alias = "color")]
    colour: bool,
    /// One JSON object per answer, then one with the statistics, instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tokens: TokenArgs,
    #[command(flatten)]
    device: PlaceArgs,
}

fn main() -> ExitCode {
    terminal::run(run)
}

fn run() -> Result<()> {
    if listed() {
        return Ok(());
    }
    let args = &Args::parse();
    ensure!(args.batch > 0, "--batch is 0: expected at least 1");
    args.decoding.refuse_unused()?;
    let folder = model_folder(&args.model)?;
    let model = model::load(&folder, args.device.open()?)?;
    let config = model.config();
    let tokenizer = args.tokens.open(&folder, config.vocab)?;
    let trained = Trained::load(&folder, config)?;
    let prompts = args.source.read(&Reader {
        folder: &folder,
        tokenizer: &tokenizer,
        context: config.max_positions,
    })?;
    if args.decoding.decides() {
        statusln!("leaves by {}", args.decoding.rule(&trained)?);
    }
    let mut session = Session {
        args,
        tokenizer: &tokenizer,
        stops: StopStrings::new(args.stop.clone())?,
        depth: config.n_layers,
        streams: prompts.len() == 1 && !args.json,
        answered: 0,
    };
    let mut statistics = Statistics::default();
    let mut tuner = None;
    for prompts in prompts.chunks(args.batch) {
        let mut settings = args.decoding.settings(&trained, &tokenizer)?;
        keep_what_was_learnt(&mut settings, &mut tuner);
        let mut decoder = Decoder::new(&model, prompts, settings)?;
        session.answer(prompts, &mut decoder)?;
        statistics.add(decoder.statistics());
        tuner = decoder.into_tuner();
    }
    if args.json {
        return print(&format!("{}\n", json!({ "statistics": statistics })));
    }
    print_statistics(&statistics, config.n_layers);
    for (depth, rate) in tuner.iter().flat_map(Tuner::acceptance) {
        let rate = rate.map_or("not tried".to_owned(), |rate| {
            format!("{:.0} %", 100.0 * rate)
        });
        statusln!("drafts of exit {depth} accepted of late: {rate}");
    }
    Ok(())
}

fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.context("cannot write to standard output")
}

/// A model's text as it is shown: on a terminal without the escape codes that it may hold.
fn for_terminal(text: &str) -> Cow<'_, str> {
    match std::io::stdout().is_terminal() {
        true => terminal::clean(text),
        false => Cow::Borrowed(text),
    }
}

/// What came of one prompt.
struct Reply<'a> {
    stream: TextStream<'a>,
    stops: StopStrings,
    stopped: bool,
    text: String,
    tokens: Vec<u32>,
    exits: Vec<usize>,
}

impl<'a> Reply<'a> {
    /// Takes a token; returns the text that became certain.
    fn push(&mut self, step: &Step) -> Result<String> {
        self.tokens.push(step.token);
        self.exits.push(step.exit.depth());
        let text = self.stream.push(step.token)?;
        Ok(self.pass(&text))
    }

    /// What was held back, now that nothing more comes.
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

    /// `tokens` are all that were made, those of a stop string included; `text` ends before it.
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

/// What is the same for all prompts, and how many were answered.
struct Session<'a> {
    args: &'a Args,
    tokenizer: &'a Tokenizer,
    stops: StopStrings,
    /// Blocks of the model.
    depth: usize,
    /// Whether text is shown as it comes.
    streams: bool,
    answered: usize,
}

impl<'a> Session<'a> {
    /// Decodes one batch and shows the answers.
    fn answer(&mut self, prompts: &[Prompt], decoder: &mut Decoder<Llama>) -> Result<()> {
        let replies = prompts.iter().map(|prompt| self.reply(prompt));
        let mut replies = replies.collect::<Result<Vec<_>>>()?;
        let mut shown = vec![String::new(); prompts.len()];
        if self.streams {
            print(&for_terminal(&self.tokenizer.decode(&prompts[0].tokens)?))?;
        }
        while let Some(step) = decoder.next() {
            let step = step?;
            let reply = &mut replies[step.row];
            let text = reply.push(&step)?;
            if reply.stopped {
                decoder.stop(step.row);
            }
            let text = for_terminal(&text);
            let painted = self.paint(&text, step.exit.depth());
            match self.streams {
                true => print(&painted)?,
                // An answer that is shown alone does not start with the space behind its prompt.
                false if shown[step.row].is_empty() => {
                    shown[step.row] = self.paint(text.trim_start(), step.exit.depth());
                }
                false => shown[step.row].push_str(&painted),
            }
        }
        for (row, reply) in replies.iter_mut().enumerate() {
            let rest = if reply.stopped {
                String::new()
            } else {
                reply.finish()?
            };
            self.answered += 1;
            let number = self.answered;
            let answer = match (self.streams, self.args.json) {
                (true, _) => format!("{rest}\n"),
                (false, true) => format!("{}\n", reply.json(&prompts[row], decoder.finish(row))),
                (false, false) => format!("--- {number}\n{}{rest}\n", shown[row]),
            };
            print(&answer)?;
        }
        Ok(())
    }

    fn reply(&self, prompt: &Prompt) -> Result<Reply<'a>> {
        Ok(Reply {
            stream: TextStream::after(self.tokenizer, &prompt.tokens)?,
            stops: self.stops.clone(),
            stopped: false,
            text: String::new(),
            tokens: Vec::new(),
            exits: Vec::new(),
        })
    }

    /// From blue to red through the colour cube of 256-colour terminals. Text that had to wait, for the rest of a character
    /// or a possible stop string, has the colour of the token that let it go.
    fn paint(&self, text: &str, depth: usize) -> String {
        if !self.args.colour || self.args.json || text.is_empty() {
            return text.to_owned();
        }
        let steps = [
            27, 33, 39, 45, 50, 48, 46, 118, 190, 226, 214, 208, 202, 196,
        ];
        let index = depth * (steps.len() - 1) / self.depth.max(1);
        format!("\x1b[38;5;{}m{text}\x1b[0m", steps[index])
    }
}
