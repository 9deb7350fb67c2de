//! The whole library in one file: fine-tune the quickstart's small LLaMA at four depths, save it,
//! load it, and decode one prompt in three modes. Run it:
//! `cargo run --release --example train_and_decode`.

use std::path::Path;

use anyhow::Result;
use soft_burn::{
    Decay, Llama, Method, SaveOptions, Schedule, SoftInfo, TrainSettings, Trainer, device,
};
use soft_core::decode::{DraftLength, DynamicExits, Speculation};
use soft_core::policy::Confidence;
use soft_core::{DecodeSettings, Decoder, Exit, Exits, Mode, Prompt, Thresholds};
use soft_data::{Loader, LoaderConfig, Record, Tokenizer, encode};
use soft_examples::outln;
use soft_examples::tiny_world::{Split, World};

fn main() -> Result<()> {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tiny-llama");
    let device = device("cpu")?;
    let model = Llama::from_pretrained(&base, &device)?;
    let tokenizer = Tokenizer::from_folder(&base, model.config().vocab)?;

    // Rows: prompts with the responses to learn.
    let world = World::new(7).instructions(Split::Train);
    let rows = world.iter().enumerate();
    let rows =
        rows.map(|(row, it)| Record::completion(row + 1, &it.prompt, format!(" {}", it.response)));
    let (examples, report) = encode(&rows.collect::<Vec<_>>(), &tokenizer, 128)?;
    outln!("{report}");
    let mut batches = Loader::new(examples, LoaderConfig::default())?;

    // The sorted loss: the mean of the losses at 2, 4, 6 and 8 blocks.
    let exits: Exits = "2:8:2".parse()?;
    let settings = TrainSettings {
        schedule: Schedule {
            peak: 2e-3,
            warmup_steps: 10,
            decay: Decay::Cosine,
        },
        ..TrainSettings::new(Method::soft(), exits.clone(), 120)
    };
    let mut trainer = Trainer::new(model, settings)?;
    while trainer.steps_done() < 120 {
        let report = trainer.step(&mut batches)?;
        if report.step % 20 == 0 {
            let losses = report.exits.iter();
            let losses = losses.map(|it| format!("exit {} {:.2}", it.exit, it.loss));
            outln!(
                "step {:>3}: {}",
                report.step,
                losses.collect::<Vec<_>>().join(", ")
            );
        }
    }

    // An ordinary Hugging Face folder, which transformers loads too.
    let parent = tempfile::tempdir()?;
    let folder = parent.path().join("elastic");
    let soft = SoftInfo {
        exits: exits.clone(),
        method: "soft".to_owned(),
        provenance: Default::default(),
        calibrated: Vec::new(),
    };
    let options = SaveOptions {
        soft: Some(&soft),
        companions: Some(&base),
        ..SaveOptions::default()
    };
    trainer.trained().save_pretrained(&folder, &options)?;
    let model = Llama::from_pretrained(&folder, &device)?;

    let text = "question : put in order the words lemon egg icing . answer :";
    let prompt = [Prompt::from(tokenizer.encode_start(text)?)];
    let modes = [
        ("4 of 8 blocks", Mode::Static(Exit::new(4)?)),
        (
            "exits at confidence 0.9",
            Mode::Dynamic(DynamicExits {
                exits: exits.clone(),
                policy: Box::new(Confidence(Thresholds::all(0.9))),
            }),
        ),
        (
            "2 blocks draft for 8",
            Mode::Speculative(Speculation::at(Exit::new(2)?, 8, DraftLength::Fixed(3))?),
        ),
    ];
    for (name, mode) in modes {
        let settings = DecodeSettings::greedy(mode, 12).stop_at(&[tokenizer.eos()]);
        let mut decoder = Decoder::new(&model, &prompt, settings)?;
        decoder.run()?;
        let statistics = decoder.statistics();
        outln!(
            "{name}: {}\n    mean depth {:.1}, {:.1} blocks per token, {} of {} drafts accepted",
            tokenizer.decode_continuation(decoder.answer(0))?,
            statistics.mean_depth(),
            statistics.blocks_per_token(),
            statistics.accepted,
            statistics.drafted,
        );
    }
    Ok(())
}
