//! Library usage: fine-tunes the quickstart's model with the sorted loss, saves it, loads it again,
//! and decodes in three modes. Run it: `cargo run --release --example train_and_decode`.

use std::path::Path;

use anyhow::{Context, Result};
use soft_burn::{
    Decay, Llama, Method, SaveOptions, Schedule, SoftInfo, TrainSettings, Trainer, device,
    keep_freed_memory,
};
use soft_core::decode::{DraftLength, DynamicExits, Speculation};
use soft_core::policy::Confidence;
use soft_core::{DecodeSettings, Decoder, Exit, Exits, Mode, Prompt, Thresholds};
use soft_data::{Loader, LoaderConfig, Record, Tokenizer, encode};
use soft_examples::tiny_world::{Split, World};

const STEPS: u64 = 200;

fn main() -> Result<()> {
    keep_freed_memory();
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tiny-llama");
    let temporary = tempfile::tempdir()?;
    let folder = temporary.path().join("model");
    train(&base, &folder)?;
    decode(&folder, "question : repeat the words soup kale . answer :")
}

/// Fine-tunes the model in `base` at exits 2, 4, 6 and 8, and saves it in `folder`.
fn train(base: &Path, folder: &Path) -> Result<()> {
    let model = Llama::from_pretrained(base, &device("cpu")?)?;
    let tokenizer = Tokenizer::from_folder(base, model.config().vocab)?;
    // For your own rows: `soft_data::read_jsonl(path)?`.
    let asked = World::new(7).instructions(Split::Train);
    let records = asked
        .iter()
        .zip(1..)
        .map(|(asked, row)| Record::completion(row, &asked.prompt, format!(" {}", asked.response)));
    let (examples, _) = encode(&records.collect::<Vec<_>>(), &tokenizer, 128)?;
    let mut batches = Loader::new(examples, LoaderConfig::default())?;

    let exits: Exits = "2,4,6,8".parse()?;
    let settings = TrainSettings {
        schedule: Schedule {
            peak: 1e-3,
            warmup_steps: 10,
            decay: Decay::Cosine,
        },
        ..TrainSettings::new(Method::soft(), exits.clone(), STEPS)
    };
    let mut trainer = Trainer::new(model, settings)?;
    while trainer.steps_done() < STEPS {
        let report = trainer.step(&mut batches)?;
        if report.step == 1 || report.step.is_multiple_of(40) {
            let exits = report.exits.iter();
            let losses = exits.map(|it| format!("  exit {}: {:.3}", it.exit, it.loss));
            println!("step {:>3}{}", report.step, losses.collect::<String>());
        }
    }
    let info = SoftInfo {
        exits,
        method: "soft".to_owned(),
        provenance: serde_json::Value::Null,
        calibrated: Vec::new(),
    };
    let options = SaveOptions {
        soft: Some(&info),
        companions: Some(base), // tokenizer files
        ..SaveOptions::default()
    };
    Ok(trainer.trained().save_pretrained(folder, &options)?)
}

/// Decodes a prompt at one exit, with dynamic exits, and speculatively.
fn decode(folder: &Path, prompt: &str) -> Result<()> {
    let model = Llama::from_pretrained(folder, &device("cpu")?)?;
    let tokenizer = Tokenizer::from_folder(folder, model.config().vocab)?;
    let exits = SoftInfo::load(folder)?.context("no soft.json")?.exits;
    let policy = Box::new(Confidence(Thresholds::all(0.7)));
    let length = DraftLength::Adaptive { start: 3, most: 8 };
    let speculation = Speculation::at(Exit::new(2)?, 8, length)?;
    for (name, mode) in [
        ("exit 6", Mode::Static(Exit::new(6)?)),
        ("dynamic", Mode::Dynamic(DynamicExits::new(exits, policy))),
        ("speculative", Mode::Speculative(speculation)),
    ] {
        let settings = DecodeSettings::greedy(mode, 12).stop_at(tokenizer.stop_tokens());
        let prompt = Prompt::from(tokenizer.encode_start(prompt)?);
        let mut decoder = Decoder::new(&model, &[prompt], settings)?;
        println!("\n{name}");
        for step in decoder.by_ref() {
            let step = step?;
            let (text, exit) = (tokenizer.decode(&[step.token])?, step.exit);
            println!("{text:>10}  exit {exit}");
        }
        let (accepted, drafted) = (decoder.statistics().accepted, decoder.statistics().drafted);
        println!("{accepted} of {drafted} drafted tokens accepted");
    }
    Ok(())
}
