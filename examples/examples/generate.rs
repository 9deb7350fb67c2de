//! Generates text at any depth of a model: one exit, exits token by token, self-speculation, or what is
//! fastest here. Streams the text, optionally coloured by the depth that named each token, and says what it cost.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Parser;
use serde_json::json;
use soft_burn::{Llama, device};
use soft_core::{DecodeSettings, Decoder, Finish, Mode, Prompt, Statistics, Step, Tuner};
use soft_data::{StopStrings, TextStream, Tokenizer};
use soft_examples::decoding::{DecodingArgs, Trained};
use soft_examples::prompts::PromptArgs;
use soft_examples::statistics::print_statistics;

#[derive(Parser, Debug)]
#[command(about = "Generate text at any depth of a model")]
struct Args {
    /// Model folder
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
    /// Device: cpu, cuda, cuda:1, wgpu, ndarray, as compiled in
    #[arg(long, default_value = "cpu")]
    device: String,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.batch > 0, "--batch is 0: expected at least 1");
    let model = Llama::from_pretrained(&args.model, &device(&args.device)?)?;
    let config = model.config();
    let tokenizer = Tokenizer::from_folder(&args.model, config.vocab)?;
    let trained = Trained::load(&args.model, config.n_layers)?;
    let prompts = args.source.read(&args.model, &tokenizer)?;
    let stops = StopStrings::new(args.stop.clone())?;

    let mut statistics = Statistics::default();
    let mut tuner = None;
    for prompts in prompts.chunks(args.batch) {
        let mut settings = args.decoding.settings(&trained, &tokenizer)?;
        keep_what_was_learnt(&mut settings, &mut tuner);
        let mut decoder = Decoder::new(&model, prompts, settings)?;
        let replies = reply(&args, &tokenizer, &stops, prompts, &mut decoder)?;
        if args.json {
            for (row, reply) in replies.iter().enumerate() {
                println!("{}", reply.json(&prompts[row], decoder.finish(row)));
            }
        }
        statistics.add(decoder.statistics());
        tuner = decoder.into_tuner();
    }
    if args.json {
        println!("{}", json!({ "statistics": statistics }));
    } else {
        print_statistics(&statistics);
        if let Some(tuner) = tuner {
            for (depth, rate) in tuner.acceptance() {
                let rate = rate.map_or("not tried".to_owned(), |rate| {
                    format!("{:.0} %", 100.0 * rate)
                });
                eprintln!("drafts of exit {depth} accepted: {rate}");
            }
        }
    }
    Ok(())
}

/// Automatic mode goes on with what it learnt from earlier prompts.
fn keep_what_was_learnt(settings: &mut DecodeSettings, tuner: &mut Option<Tuner>) {
    if let (Mode::Auto(fresh), Some(learnt)) = (&mut settings.mode, tuner.take()) {
        *fresh = learnt;
    }
}

/// What came of one prompt.
struct Reply<'a> {
    stream: TextStream<'a>,
    stops: StopStrings,
    text: String,
    tokens: Vec<u32>,
    exits: Vec<usize>,
}

impl<'a> Reply<'a> {
    fn new(tokenizer: &'a Tokenizer, stops: &StopStrings, prompt: &Prompt) -> Result<Self> {
        Ok(Self {
            stream: TextStream::after(tokenizer, &prompt.tokens)?,
            stops: stops.clone(),
            text: String::new(),
            tokens: Vec::new(),
            exits: Vec::new(),
        })
    }

    /// Takes a token; returns the text to show and whether a stop string ended the answer.
    fn push(&mut self, step: &Step) -> Result<(String, bool)> {
        self.tokens.push(step.token);
        self.exits.push(step.exit.depth());
        let passed = self.stops.push(&self.stream.push(step.token)?);
        self.text.push_str(&passed.text);
        Ok((passed.text, passed.stopped))
    }

    /// What was held back, now that nothing more comes.
    fn finish(&mut self) -> Result<String> {
        let mut passed = self.stops.push(&self.stream.clone().finish()?);
        if !passed.stopped {
            passed.text.push_str(&self.stops.clone().finish());
        }
        self.text.push_str(&passed.text);
        Ok(passed.text)
    }

    fn json(&self, prompt: &Prompt, finish: Option<Finish>) -> serde_json::Value {
        json!({
            "prompt": prompt.tokens,
            "tokens": self.tokens,
            "exits": self.exits,
            "text": self.text,
            "finish": finish.map(|finish| format!("{finish:?}")),
        })
    }
}

/// Decodes one batch; alone, a prompt's answer is streamed.
fn reply<'a>(
    args: &Args,
    tokenizer: &'a Tokenizer,
    stops: &StopStrings,
    prompts: &[Prompt],
    decoder: &mut Decoder<Llama>,
) -> Result<Vec<Reply<'a>>> {
    let replies = prompts
        .iter()
        .map(|prompt| Reply::new(tokenizer, stops, prompt));
    let mut replies = replies.collect::<Result<Vec<_>>>()?;
    let streams = prompts.len() == 1 && !args.json;
    let mut painter = Painter {
        colour: args.colour,
        depth: decoder.statistics().depth,
    };
    if streams {
        painter.show(&tokenizer.decode(&prompts[0].tokens)?, None)?;
    }
    let mut painted = vec![String::new(); prompts.len()];
    while let Some(step) = decoder.next() {
        let step = step?;
        let (text, stopped) = replies[step.row].push(&step)?;
        if stopped {
            decoder.stop(step.row);
        }
        if streams {
            painter.show(&text, Some(step.exit.depth()))?;
        } else {
            painted[step.row].push_str(&painter.paint(&text, Some(step.exit.depth())));
        }
    }
    for (row, reply) in replies.iter_mut().enumerate() {
        let ended_by_stop = decoder.finish(row) == Some(Finish::Stopped);
        let rest = if ended_by_stop {
            String::new()
        } else {
            reply.finish()?
        };
        if streams {
            painter.show(&rest, None)?;
            println!();
        } else if !args.json {
            println!("--- {}\n{}{rest}", row, painted[row].trim_start());
        }
    }
    Ok(replies)
}

/// Shows text, coloured by depth when asked to.
struct Painter {
    colour: bool,
    depth: usize,
}

impl Painter {
    fn paint(&self, text: &str, depth: Option<usize>) -> String {
        match depth {
            Some(depth) if self.colour && !text.is_empty() => {
                // From blue to red through the colour cube of 256-colour terminals.
                let steps = [
                    27, 33, 39, 45, 50, 48, 46, 118, 190, 226, 214, 208, 202, 196,
                ];
                let index = depth * (steps.len() - 1) / self.depth.max(1);
                format!("\x1b[38;5;{}m{text}\x1b[0m", steps[index])
            }
            _ => text.to_owned(),
        }
    }

    fn show(&mut self, text: &str, depth: Option<usize>) -> Result<()> {
        let mut out = std::io::stdout().lock();
        write!(out, "{}", self.paint(text, depth))?;
        Ok(out.flush()?)
    }
}
