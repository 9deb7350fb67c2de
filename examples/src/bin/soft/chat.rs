//! `soft chat`: a conversation in the terminal.
//!
//! Every turn renders the whole conversation with the model's chat template, as in training, and
//! decodes it from an empty cache.

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args as ClapArgs;
use soft_burn::DecodingDefaults;
use soft_core::{Decoder, Prompt};
use soft_data::{Conversation, Message, PromptBody, Role, StopStrings};
use soft_examples::decoding::{DecodingArgs, keep_measurements};
use soft_examples::device::PlaceArgs;
use soft_examples::hub::model_folder;
use soft_examples::model;
use soft_examples::statusln;
use soft_examples::tokens::{TokenArgs, say_of_default_template, warn_of_control_text};

use crate::printer::{Printer, Show, print};

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Model folder, or org/name[@revision] of a hub
    #[arg(long)]
    model: PathBuf,
    /// System message that every conversation starts with
    #[arg(long)]
    system: Option<String>,
    /// Text that ends an answer; may be given several times
    #[arg(long)]
    stop: Vec<String>,
    /// Seed of the sampler
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Color every token by the depth of its exit: blue is shallow, red is deep
    #[arg(long, alias = "colour")]
    color: bool,
    #[command(flatten)]
    decoding: DecodingArgs,
    #[command(flatten)]
    tokens: TokenArgs,
    #[command(flatten)]
    device: PlaceArgs,
}

pub fn run(args: Args) -> Result<()> {
    args.decoding.refuse_unused()?;
    let folder = model_folder(&args.model)?;
    let model = model::load(&folder, args.device.open()?)?;
    let depth = model.config().n_layers;
    let context = model.config().max_positions;
    let tokenizer = args.tokens.open(&folder, model.config().vocab)?;
    let trained = DecodingDefaults::load(&folder, model.config())?;
    say_of_default_template(&tokenizer, &folder);
    let system = |text: &String| Message::new(Role::System, text);
    let beginning: Vec<Message> = args.system.iter().map(system).collect();
    let mut printer = Printer {
        tokenizer: &tokenizer,
        stops: StopStrings::new(args.stop.clone())?,
        colors: args.color.then_some(depth),
        show: Show::Stream,
        answered: 0,
    };
    let (mut messages, mut tuner) = (beginning.clone(), None);
    statusln!("/reset begins a new conversation, /exit or Ctrl-D ends");
    while let Some(line) = next_line()? {
        match line.trim() {
            "" => continue,
            "/exit" => break,
            "/reset" => {
                messages.clone_from(&beginning);
                continue;
            }
            text => messages.push(Message::new(Role::User, text)),
        }
        let body = [PromptBody::Chat(Conversation::from(messages.clone()))];
        warn_of_control_text(&tokenizer.control_text_of(&body));
        let tokens = body[0].encode(&tokenizer)?;
        ensure!(
            tokens.len() <= context,
            "the conversation has {} tokens: the model's context holds {context}",
            tokens.len()
        );
        let prompts = [Prompt {
            tokens,
            seed: args.seed.wrapping_add(printer.answered as u64),
        }];
        let mut settings = args.decoding.settings(&trained, &tokenizer)?;
        keep_measurements(&mut settings, &mut tuner);
        let mut decoder = Decoder::new(&model, &prompts, settings)?;
        let answers = printer.answer(&prompts, &mut decoder)?;
        tuner = decoder.into_tuner();
        let answers = answers.iter().map(|text| text.trim());
        messages.extend(answers.map(|text| Message::new(Role::Assistant, text)));
    }
    Ok(())
}

/// The next line of standard input; none at its end. A terminal gets a prompt.
fn next_line() -> Result<Option<String>> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        print("> ")?;
    }
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line)?;
    Ok((read > 0).then_some(line))
}
