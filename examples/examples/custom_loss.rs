//! A custom schedule of the sorted loss: the early exits take turns, each with the full depth.

use std::process::ExitCode;

use anyhow::Result;
use soft_burn::{Decay, Llama, Method, Schedule, TrainSettings, Trainer, device};
use soft_core::{Exits, LossSchedule, MicroBatch};
use soft_data::{Loader, LoaderConfig, Record, Tokenizer, encode};
use soft_examples::outln;
use soft_examples::terminal;
use soft_examples::tiny_world::{Split, World};

/// Trains one exit and the full depth per step, with equal weights. This is a function of the step
/// only, so a resumed run continues correctly.
struct InTurns;

impl LossSchedule for InTurns {
    fn weights(&self, exits: &Exits, at: MicroBatch) -> Vec<f64> {
        let full = exits.len() - 1;
        let mut weights = vec![0.0; exits.len()];
        weights[full] += 0.5;
        weights[at.step as usize % full.max(1)] += 0.5;
        weights
    }
}

fn main() -> ExitCode {
    terminal::run(run)
}

fn run() -> Result<()> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tiny-llama");
    let model = Llama::from_pretrained(folder, &device("cpu")?)?;
    let tokenizer = Tokenizer::from_folder(folder, model.config().vocab)?;
    let asked = World::new(7).instructions(Split::Train);
    let records = asked.iter().enumerate().map(|(row, asked)| {
        Record::completion(row + 1, &asked.prompt, format!(" {}", asked.response))
    });
    let (examples, _) = encode(&records.collect::<Vec<_>>(), &tokenizer, 128)?;
    let mut batches = Loader::new(examples, LoaderConfig::default())?;
    let settings = TrainSettings {
        schedule: Schedule {
            peak: 1e-3,
            warmup_steps: 0,
            decay: Decay::Constant,
        },
        loss_schedule: Some("exits in turns".to_owned()),
        ..TrainSettings::new(Method::soft(), "2:8:2".parse()?, 12)
    };
    let trainer = Trainer::new(model, settings)?;
    let mut trainer = trainer.with_loss_schedule(Box::new(InTurns))?;
    while trainer.steps_done() < 12 {
        let report = trainer.step(&mut batches)?;
        let losses = report.exits.iter();
        let losses: Vec<_> = losses
            .map(|exit| format!("exit {}: {:.3}", exit.exit, exit.loss))
            .collect();
        outln!("step {:>2}  {}", report.step, losses.join("  "));
    }
    Ok(())
}
