//! A custom exit policy: the first tokens of an answer, which often determine its content, come
//! from the full model; later ones exit as soon as an exit is confident enough. Run it:
//! `cargo run --release --example custom_policy`.

use std::process::ExitCode;

use anyhow::Result;
use soft_burn::{Llama, device};
use soft_core::decode::DynamicExits;
use soft_core::policy::{ExitDecision, ExitSignals, Signal};
use soft_core::{DecodeSettings, Decoder, Exit, ExitPolicy, Mode, Prompt};
use soft_data::Tokenizer;
use soft_examples::outln;
use soft_examples::terminal;

/// Exits at probabilities above `least`, but not in the first `tokens` decoding steps.
#[derive(Clone)]
struct AfterTheFirst {
    tokens: usize,
    least: f32,
    seen: usize,
}

impl ExitPolicy for AfterTheFirst {
    fn decide(&mut self, _exit: Exit, signals: &ExitSignals) -> ExitDecision {
        match signals.score {
            // Signals are only computed when a policy asks for them.
            _ if self.seen <= self.tokens => ExitDecision::Continue,
            None => ExitDecision::Ask(Signal::Score),
            Some(score) if score.probability > self.least => ExitDecision::Exit,
            Some(_) => ExitDecision::Continue,
        }
    }

    fn next_token(&mut self) {
        self.seen += 1;
    }
}

fn main() -> ExitCode {
    terminal::run(run)
}

fn run() -> Result<()> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tiny-llama");
    let model = Llama::from_pretrained(folder, &device("cpu")?)?;
    let tokenizer = Tokenizer::from_folder(folder, model.config().vocab)?;
    let policy = AfterTheFirst {
        tokens: 2,
        least: 0.2,
        seen: 0,
    };
    let dynamic = DynamicExits::new("2,4,8".parse()?, Box::new(policy));
    let prompt = Prompt::from(tokenizer.encode_start("anka has a")?);
    let settings = DecodeSettings::greedy(Mode::Dynamic(dynamic), 12);
    for step in Decoder::new(&model, &[prompt], settings)? {
        let step = step?;
        let text = tokenizer.decode(&[step.token])?;
        outln!("{text:>10}  exit {}", step.exit);
    }
    Ok(())
}
