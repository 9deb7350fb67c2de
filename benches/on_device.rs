//! Training steps and decoding of large shapes on any device: SFT against SoFT, plain decoding
//! against dynamic exits and self-speculation.
//!
//! ```sh
//! cargo bench --bench on_device --features tch -- --device torch-cuda --dtype bf16 \
//!     --shape llama2-7b --train lora
//! ```
//!
//! `peers/on_device.py` does the same in PyTorch, `peers/gpu` runs both. Weights are random,
//! which does not change the time. For decoding they are so small that blocks hardly change the
//! hidden state: every depth then predicts the same token, and every draft is accepted, so the
//! speedup of speculation measured here is its upper bound.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use soft_benches::{Same, batch, llama2_7b, llama2_13b, median, smollm2, tiny};
use soft_burn::{
    BodyOptions, Llama, LlamaConfig, Lora, Method, Placement, SoftOptions, TrainSettings,
    TrainedWeights, Trainer,
};
use soft_core::decode::{DraftLength, DynamicExits, Speculation};
use soft_core::policy::Confidence;
use soft_core::{DecodeSettings, Decoder, Exit, Exits, Mode, Prompt, Thresholds};
use soft_examples::device::PlaceArgs;
use soft_examples::device_profile::ProfileArgs;
use soft_examples::kernels;
use soft_examples::table::table;

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    place: PlaceArgs,
    /// Shape of the model
    #[arg(long, default_value = "smollm2")]
    shape: Shape,
    /// What is trained
    #[arg(long, default_value = "full")]
    train: Trained,
    /// Training steps to measure [default: all]
    #[arg(long)]
    side: Option<Side>,
    /// Rows of a training batch
    #[arg(long, default_value_t = 8)]
    rows: usize,
    /// Tokens of each, the second half of which are learned
    #[arg(long, default_value_t = 512)]
    length: usize,
    /// Training steps per side, after two to warm up
    #[arg(long, default_value_t = 7)]
    steps: usize,
    /// Tokens to decode after a prompt of 64; none when 0
    #[arg(long, default_value_t = 128)]
    new_tokens: usize,
    /// Answers per mode, after one to warm up
    #[arg(long, default_value_t = 3)]
    answers: usize,
    /// Decoding modes to measure: those whose names begin with this [default: all]
    #[arg(long, default_value = "")]
    mode: String,
    #[command(flatten)]
    profile: ProfileArgs,
    /// Folder of compiled kernels
    #[arg(long)]
    kernel_cache: Option<PathBuf>,
    /// What `cargo bench` passes
    #[arg(long, hide = true)]
    bench: bool,
}

/// What a training step learns.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Side {
    Sft,
    /// SoFT of exit 12 and the full depth.
    SoftTwo,
    /// SoFT of all exits.
    Soft,
}

#[derive(Clone, Copy, ValueEnum)]
enum Shape {
    Tiny,
    Smollm2,
    #[value(name = "llama2-7b")]
    Llama27b,
    #[value(name = "llama2-13b")]
    Llama213b,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Trained {
    Nothing,
    Full,
    /// Adapters of rank 16 on all projections.
    Lora,
}

impl Shape {
    fn config(self) -> LlamaConfig {
        match self {
            Self::Tiny => tiny(),
            Self::Smollm2 => smollm2(),
            Self::Llama27b => llama2_7b(),
            Self::Llama213b => llama2_13b(),
        }
    }

    /// Those of the paper for LLaMA 2; as many for SmolLM2.
    fn exits(self) -> Result<Exits> {
        let depth = self.config().n_layers;
        let step = match self {
            Self::Tiny | Self::Smollm2 => 3,
            _ => 4,
        };
        Ok(Exits::every(step, 12..=depth)?)
    }
}

fn main() -> Result<()> {
    let started = Instant::now();
    let args = Args::parse();
    kernels::keep(args.kernel_cache.as_deref());
    let place = args.place.open()?;
    let name = args
        .shape
        .to_possible_value()
        .map_or_else(String::new, |value| value.get_name().to_owned());
    println!("{name} on {}", args.place.name());
    if args.train != Trained::Nothing {
        training(&args, &place, started)?;
    }
    if args.new_tokens > 0 {
        decoding(&args, &place)?;
    }
    Ok(())
}

fn training(args: &Args, place: &Placement, started: Instant) -> Result<()> {
    let mut model = Some(Llama::random(args.shape.config(), 42, place.clone())?);
    let exits = args.shape.exits()?;
    let depth = exits.last().depth();
    let body = || BodyOptions {
        trained: match args.train {
            Trained::Lora => TrainedWeights::Lora(Lora::new(16)),
            Trained::Nothing | Trained::Full => TrainedWeights::All,
        },
        ..BodyOptions::default()
    };
    let soft = || {
        Method::Soft(SoftOptions {
            body: body(),
            ..SoftOptions::default()
        })
    };
    let mut sides = vec![
        (Side::Sft, Method::Sft(body()), Exits::new([depth])?),
        (Side::SoftTwo, soft(), Exits::new([12, depth])?),
        (Side::Soft, soft(), exits),
    ];
    sides.retain(|(side, ..)| args.side.is_none_or(|chosen| chosen == *side));
    let (learnt, vocab) = (args.length / 2, args.shape.config().vocab);
    let mut stream = Same(batch((args.rows, args.length), learnt, vocab)?);
    let mut rows: Vec<Vec<String>> = Vec::new();
    let (mut of_sft, mut is_first) = (None::<f64>, true);
    let last = sides.len() - 1;
    // One after the other: two models with their moments may not fit. The last one owns its
    // weights, and so does the only one.
    for (index, (side, method, exits)) in sides.into_iter().enumerate() {
        let model = if index == last {
            model.take()
        } else {
            model.clone()
        };
        let mut settings = TrainSettings::new(method.clone(), exits.clone(), 1_000_000);
        settings.dtype = place.dtype;
        let mut trainer = Trainer::new(model.context("the model is taken last")?, settings)?;
        let mut seconds = Vec::new();
        let mut profile = args.profile.start("step");
        for step in 0..args.steps + 2 {
            let began = Instant::now();
            trainer.step(&mut stream)?;
            place.device.sync()?;
            if let Some(profile) = &mut profile {
                println!("{}", profile.lap());
            }
            if std::mem::take(&mut is_first) {
                let since_start = started.elapsed().as_secs_f64();
                println!("first step done {since_start:.2} s after the start of the program");
            }
            if step >= 2 {
                seconds.push(began.elapsed().as_secs_f64());
            }
        }
        if let Some(profile) = profile {
            profile.finish();
        }
        let time = median(seconds);
        let tokens = (args.rows * args.length) as f64;
        if side == Side::Sft {
            of_sft = Some(time);
        }
        rows.push(vec![
            method.name().as_str().to_owned(),
            exits.to_string(),
            format!("{time:.3}"),
            format!("{:.0}", tokens / time),
            of_sft.map_or("–".to_owned(), |of_sft| format!("{:.2}", time / of_sft)),
        ]);
    }
    let trained = match args.train {
        Trained::Lora => "adapters of rank 16",
        _ => "all weights",
    };
    println!(
        "\nTraining {trained}, {} rows of {} tokens: median of {}",
        args.rows, args.length, args.steps
    );
    let headings = ["step", "exits", "s/step", "tokens/s", "time of SFT"];
    println!("{}", table(&headings, rows));
    Ok(())
}

fn decoding(args: &Args, place: &Placement) -> Result<()> {
    let still = LlamaConfig {
        initializer_range: 1e-5,
        ..args.shape.config()
    };
    let model = Llama::random(still, 42, place.clone())?;
    let exits = args.shape.exits()?;
    let (first, depth) = (Exit::new(12)?, exits.last());
    let dynamic = |threshold: f64| {
        Mode::Dynamic(DynamicExits::new(
            exits.clone(),
            Box::new(Confidence(Thresholds::all(threshold))),
        ))
    };
    let speculative = |length: usize| -> Result<Mode> {
        let length = DraftLength::Fixed(length);
        Ok(Mode::Speculative(Speculation::at(
            first,
            depth.depth(),
            length,
        )?))
    };
    let mode = |name: &str| -> Result<Mode> {
        Ok(match name {
            "full" => Mode::Static(depth),
            "exit 12" => Mode::Static(first),
            "dynamic, all leave at 12" => dynamic(0.0),
            "dynamic, none leaves" => dynamic(0.999_999),
            "drafts of 2" => speculative(2)?,
            "drafts of 4" => speculative(4)?,
            _ => speculative(8)?,
        })
    };
    let names = [
        "full",
        "exit 12",
        "dynamic, all leave at 12",
        "dynamic, none leaves",
        "drafts of 2",
        "drafts of 4",
        "drafts of 8",
    ];
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut of_full: Option<f64> = None;
    let chosen = names
        .into_iter()
        .filter(|name| name.starts_with(&args.mode));
    let chosen: Vec<_> = chosen.collect();
    ensure!(
        !chosen.is_empty(),
        "--mode {}: expected the beginning of one of {names:?}",
        args.mode
    );
    for name in chosen {
        let mut found = Vec::new();
        let (mut accepted, mut mean_depth) = (0.0, 0.0);
        for answer in 0..=args.answers {
            let prompt = Prompt::from((0..64).map(|i| (i * 37) % 101).collect::<Vec<u32>>());
            let settings = DecodeSettings::greedy(mode(name)?, args.new_tokens);
            let mut decoder = Decoder::new(&model, &[prompt], settings)?;
            let mut profile = args.profile.start("token").filter(|_| answer == 0);
            while let Some(step) = decoder.next() {
                step?;
                if let Some(profile) = &mut profile {
                    profile.keep_lap();
                }
            }
            if let Some(profile) = profile {
                println!("{name}:");
                profile.finish();
            }
            let statistics = decoder.statistics();
            (accepted, mean_depth) = (statistics.acceptance_rate(), statistics.mean_depth());
            let time = statistics.time_per_token().as_secs_f64();
            if answer > 0 {
                found.push(time);
            }
        }
        let time = median(found);
        if name == "full" {
            of_full = Some(time);
        }
        rows.push(vec![
            name.to_owned(),
            format!("{:.1}", 1.0 / time),
            format!("{:.2}", 1000.0 * time),
            of_full.map_or("–".to_owned(), |of_full| format!("{:.2}", of_full / time)),
            format!("{mean_depth:.1}"),
            if name.starts_with("drafts") {
                format!("{:.0}", 100.0 * accepted)
            } else {
                "–".to_owned()
            },
        ]);
    }
    println!(
        "\nDecoding one row, {} tokens after 64: median of {}",
        args.new_tokens, args.answers
    );
    let headings = [
        "mode",
        "tokens/s",
        "ms/token",
        "speed",
        "mean depth",
        "accepted %",
    ];
    println!("{}", table(&headings, rows));
    Ok(())
}
