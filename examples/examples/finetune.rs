//! Fine-tunes a LLaMA folder on a file of rows: SoFT, SFT, SFT+ICT or Balcony.
//!
//! The defaults are the settings of Sorted LLaMA (arXiv 2309.08968): AdamW, rate 2e-5 with a
//! cosine, batches of 32 accumulated 8 times, seed 42, 2 epochs. Its table 1 is SoFT against SFT
//! on Alpaca, its table 3 on TriviaQA.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use soft_burn::{
    AdamWSettings, Balance, Curriculum, Decay, Distillation, ExitLoss, LayerDropout, Llama,
    LlamaConfig, LogLine, Lora, Method, Objective, Run, RunData, RunSettings, SampledPerBatch,
    Schedule, SharedHead, TrainSettings, WeightType, Weights, device, save_draft_tokens,
};
use soft_core::Exits;
use soft_data::{
    EncodeReport, Format, Holdout, Loader, LoaderConfig, Tokenizer, encode, ordered_batches, split,
};
use soft_examples::decoding::draft_tokens_of;
use soft_examples::progress::Progress;
use soft_examples::recipe;
use soft_examples::table::{figure, table};

#[derive(Parser, Debug)]
#[command(
    about = "Fine-tune a LLaMA so that its first n layers are models of their own",
    args_override_self = true
)]
struct Args {
    /// Recipe: a TOML file with these flags as fields, which flags override (examples/recipes/)
    #[arg(long)]
    config: Option<PathBuf>,
    /// Model folder (config.json, safetensors, tokenizer.json)
    #[arg(long)]
    model: PathBuf,
    /// File of rows to learn from
    #[arg(long)]
    data: PathBuf,
    /// Layout of the rows: alpaca, triviaqa or jsonl
    #[arg(long)]
    format: Format,
    /// soft: all exits; sft: the full model only; ict: one new head per exit, all else frozen; balcony: one new block and norm per
    /// exit, all else frozen
    #[arg(long, default_value = "soft", value_parser = method)]
    method: Method,
    /// Exits, the last one the full depth: "12:30:3", "12,16,20..24" [default: every 4th]
    #[arg(long)]
    exits: Option<Exits>,
    /// Train the last K blocks, the final norm and an untied head only [default: everything]
    #[arg(long)]
    last_blocks: Option<usize>,
    /// Train low-rank adapters of this rank instead of the weights; written to OUT/adapter as PEFT does, and merged into OUT/model
    #[arg(long)]
    lora: Option<usize>,
    /// The adapters' product is scaled by ALPHA / rank
    #[arg(long, default_value_t = 16.0, requires = "lora")]
    lora_alpha: f64,
    /// Weights that get adapters: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj [default: all]
    #[arg(long, value_delimiter = ',', requires = "lora")]
    lora_targets: Option<Vec<String>>,
    /// Blocks that get adapters, counted from 0: "0,1,2" [default: all]
    #[arg(long, value_delimiter = ',', requires = "lora")]
    lora_layers: Option<Vec<usize>>,
    /// Rows skip blocks in training: the last with this probability, the first never
    #[arg(long)]
    layer_dropout: Option<f64>,
    /// Number type of the weights in training: f32, or bf16 with an f32 copy in the optimiser
    #[arg(long, default_value = "f32", value_parser = weight_type)]
    weights: WeightType,
    /// Compute cheap operations again in the backward pass instead of keeping their results
    #[arg(long)]
    gradient_checkpointing: bool,
    /// Weights of the exits in the loss of soft: equal, linear, quadratic, square-root or inverse in the depth, or one per
    /// exit, shallowest first: "4,1" [default: equal]
    #[arg(long, value_parser = weights)]
    exit_weights: Option<Weights>,
    /// Which exits count when (soft only): rotational=R, gradual=STEPS or ramp=STEPS [default: all of them always]
    #[arg(long, value_parser = curriculum)]
    curriculum: Option<Curriculum>,
    /// Train this many exits per micro-batch, drawn by their weights, instead of all (soft only)
    #[arg(long)]
    sampled_exits: Option<usize>,
    /// Share of the divergence from the full depth in the loss of the other exits, above 0, at most 1
    #[arg(long)]
    distill: Option<f64>,
    /// Temperature of that divergence
    #[arg(long, default_value_t = 1.0, requires = "distill")]
    temperature: f64,
    /// Limit the gradient that an exit sends into the blocks to this multiple of the full depth's (soft only)
    #[arg(long)]
    gradient_limit: Option<f64>,
    /// First step with that limit [default: the first of all]
    #[arg(long, requires = "gradient_limit")]
    gradient_limit_from: Option<u64>,
    /// Let the full depth alone move the final norm and the head (soft only)
    #[arg(long)]
    full_depth_head: bool,
    /// How the loss is differentiated: flat (memory-flat) or plain (one graph over all exits)
    #[arg(long, default_value = "flat", value_parser = objective)]
    objective: Objective,
    /// New folder for log, checkpoints and the trained model
    #[arg(long)]
    out: PathBuf,
    /// Continue the run in --out from its newest checkpoint
    #[arg(long)]
    resume: bool,
    /// Device: cpu, cuda, cuda:1, wgpu, ndarray, as compiled in
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Use the first N rows only
    #[arg(long)]
    limit: Option<usize>,
    /// Longest row in tokens; longer ones are cut on the right
    #[arg(long, default_value_t = 512)]
    max_len: usize,
    /// Rows per micro-batch
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// Pack: as many rows per micro-batch as have this many tokens together, instead of --batch
    #[arg(long)]
    pack: Option<usize>,
    /// Micro-batches per optimiser step
    #[arg(long, default_value_t = 8)]
    accumulation: usize,
    /// Times through the data; --steps overrides it
    #[arg(long, default_value_t = 2.0)]
    epochs: f64,
    /// Optimiser steps
    #[arg(long)]
    steps: Option<u64>,
    /// Highest learning rate
    #[arg(long, default_value_t = 2e-5)]
    lr: f64,
    /// Steps of linear warm-up
    #[arg(long, default_value_t = 0)]
    warmup: u64,
    /// Keep the rate after warm-up instead of a cosine
    #[arg(long)]
    constant: bool,
    /// Weight decay of matrices
    #[arg(long, default_value_t = 0.0)]
    weight_decay: f32,
    /// Decay of the mean squared gradient
    #[arg(long, default_value_t = 0.999)]
    beta2: f32,
    /// Largest gradient norm; 0 for no clipping
    #[arg(long, default_value_t = 1.0)]
    clip: f64,
    /// Seed of the order of rows and of the sampled exits
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Rows held out for validation [default: 128, or a tenth of the rows if that is less]
    #[arg(long)]
    validation: Option<usize>,
    /// Steps between validations
    #[arg(long, default_value_t = 100)]
    validate_every: u64,
    /// Steps between checkpoints
    #[arg(long, default_value_t = 100)]
    checkpoint_every: u64,
    /// Checkpoints to keep
    #[arg(long, default_value_t = 2)]
    keep: usize,
}

fn weights(text: &str) -> Result<Weights, String> {
    if let Ok(by_depth) = text.parse() {
        return Ok(Weights::ByDepth(by_depth));
    }
    let numbers = text.split(',').map(|number| number.trim().parse());
    numbers
        .collect::<Result<_, _>>()
        .map(Weights::PerExit)
        .map_err(|_| {
            "expected equal, linear, quadratic, square-root, inverse, or one number per exit"
                .to_owned()
        })
}

fn curriculum(text: &str) -> Result<Curriculum, String> {
    let expected = || "expected rotational=R, gradual=STEPS or ramp=STEPS".to_owned();
    let (name, number) = text.split_once('=').ok_or_else(expected)?;
    let number = number.parse().map_err(|_| expected())?;
    match name {
        "rotational" => Ok(Curriculum::Rotational { every: number }),
        "gradual" => Ok(Curriculum::Gradual { steps: number }),
        "ramp" => Ok(Curriculum::Ramp { steps: number }),
        _ => Err(expected()),
    }
}

fn objective(name: &str) -> Result<Objective, String> {
    match name {
        "flat" => Ok(Objective::Flat),
        "plain" => Ok(Objective::Plain),
        _ => Err("expected flat or plain".to_owned()),
    }
}

fn weight_type(name: &str) -> Result<WeightType, String> {
    match name {
        "f32" => Ok(WeightType::F32),
        "bf16" => Ok(WeightType::Bf16),
        _ => Err("expected f32 or bf16".to_owned()),
    }
}

fn method(name: &str) -> Result<Method, String> {
    let found = Method::ALL.into_iter().find(|method| method.name() == name);
    found.ok_or_else(|| "expected soft, sft, ict or balcony".to_owned())
}

fn main() -> Result<()> {
    let args: Args = recipe::parse()?;
    // Everything cheap is checked before the weights are read.
    ensure!(
        args.resume || !args.out.exists(),
        "{} is there already: name a new folder, or add --resume to continue it",
        args.out.display()
    );
    let device = device(&args.device)?;
    let config = LlamaConfig::load(&args.model)?;
    let exits = match &args.exits {
        Some(exits) => exits.clone(),
        None => Exits::every(4, config.n_layers.min(4)..=config.n_layers)?,
    };
    let exits = exits.for_depth(config.n_layers)?;
    let (data, rows) = load_rows(&args, &config)?;
    let settings = run_settings(&args, exits, &data.stream, rows);
    settings.validate()?;
    settings.train.check_within(&config)?;
    let draft_tokens = draft_tokens_of(data.stream.examples(), config.vocab);
    let run = if args.resume {
        Run::resume(&args.out, settings, data, &device)?
    } else {
        Run::start(
            &args.out,
            Llama::from_pretrained(&args.model, &device)?,
            settings,
            data,
        )?
    };
    train(run, &args, draft_tokens)
}

const DEFAULT_VALIDATION: usize = 128;

/// Reads, encodes and splits the rows, and says what became of them.
fn load_rows(args: &Args, config: &LlamaConfig) -> Result<(RunData<Loader>, EncodeReport)> {
    let mut records = args.format.read(&args.data)?;
    records.truncate(args.limit.unwrap_or(usize::MAX));
    let tokenizer = Tokenizer::from_folder(&args.model, config.vocab)?;
    let max_len = args.max_len.min(config.max_positions);
    let (examples, report) = encode(&records, &tokenizer, max_len)?;
    eprintln!("{}: {report}", args.data.display());
    if !report.without_supervision.is_empty() {
        eprintln!(
            "left out, nothing to learn within --max-len: rows {}",
            listed(&report.without_supervision)
        );
    }
    let validation = args
        .validation
        .unwrap_or_else(|| DEFAULT_VALIDATION.min(examples.len() / 10));
    let parts = split(examples, Holdout::Rows(validation), 0)?;
    let loader = LoaderConfig {
        batch_size: args.batch,
        tokens_per_batch: args.pack,
        seed: args.seed,
        ..LoaderConfig::default()
    };
    let loader = Loader::new(parts.train, tokenizer.pad(), loader)?;
    let validation = match parts.validation.as_slice() {
        [] => Vec::new(),
        rows => ordered_batches(rows, tokenizer.pad(), args.batch)?,
    };
    let stream = loader;
    Ok((RunData { stream, validation }, report))
}

fn run_settings(args: &Args, exits: Exits, loader: &Loader, rows: EncodeReport) -> RunSettings {
    let per_epoch = loader.batches_per_epoch() as f64 / args.accumulation.max(1) as f64;
    let steps = args
        .steps
        .unwrap_or((per_epoch * args.epochs).ceil() as u64);
    let train = TrainSettings {
        accumulation: args.accumulation,
        schedule: Schedule {
            peak: args.lr,
            warmup_steps: args.warmup,
            decay: if args.constant {
                Decay::Constant
            } else {
                Decay::Cosine
            },
        },
        optimizer: AdamWSettings {
            beta2: args.beta2,
            weight_decay: args.weight_decay,
            clip_norm: (args.clip != 0.0).then_some(args.clip),
            ..AdamWSettings::default()
        },
        objective: args.objective,
        last_blocks: args.last_blocks,
        lora: args.lora.map(|rank| lora(args, rank)),
        layer_dropout: args.layer_dropout.map(|rate| LayerDropout {
            rate,
            seed: args.seed,
        }),
        weights: args.weights,
        gradient_checkpointing: args.gradient_checkpointing,
        exit_weights: args.exit_weights.clone(),
        curriculum: args.curriculum,
        sampled_exits: args.sampled_exits.map(|draws| SampledPerBatch {
            draws,
            seed: args.seed,
        }),
        distillation: args.distill.map(|share| Distillation {
            share,
            temperature: args.temperature,
        }),
        balance: Balance {
            limit: args.gradient_limit,
            limit_from: args.gradient_limit_from,
            shared_head: match args.full_depth_head {
                true => SharedHead::FullDepth,
                false => SharedHead::AllExits,
            },
        },
        ..TrainSettings::new(args.method, exits, steps)
    };
    RunSettings {
        train,
        validate_every: Some(args.validate_every),
        checkpoint_every: Some(args.checkpoint_every),
        keep_checkpoints: args.keep,
        base: args.model.clone(),
        provenance: serde_json::json!({
            "data": args.data,
            "format": args.format,
            "limit": args.limit,
            "max_len": args.max_len,
            "batch": args.batch,
            "pack": args.pack,
            "seed": args.seed,
            "validation": args.validation,
            // So that a resumed run notices when the file has changed.
            "rows": rows,
        }),
    }
}

fn lora(args: &Args, rank: usize) -> Lora {
    let all = Lora::new(rank);
    Lora {
        alpha: args.lora_alpha,
        targets: args.lora_targets.clone().unwrap_or(all.targets),
        layers: args.lora_layers.clone(),
        seed: args.seed,
        ..all
    }
}

/// Draws the run to its end, or to Ctrl-C.
fn train(mut run: Run<Loader>, args: &Args, draft_tokens: Option<Vec<u32>>) -> Result<()> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    ctrlc::set_handler(move || flag.store(true, Ordering::SeqCst))
        .context("cannot catch Ctrl-C")?;

    let settings = run.trainer().settings().clone();
    let mut progress = Progress::new(
        settings.method.name(),
        settings.steps,
        run.trainer().steps_done(),
    );
    let (mut first, mut last) = (None, None);
    // `while let`, not `for`: the run is needed again to write its checkpoint.
    while let Some(line) = run.next() {
        match line? {
            LogLine::Train(report) => {
                let speed = report.tokens_per_second;
                progress.step(&format!("{} {speed:.0} tokens/s", losses(&report.exits)));
            }
            LogLine::Validation { step, exits } => {
                progress.say(&format!("step {step}: validation loss {}", losses(&exits)));
                first.get_or_insert_with(|| (step, exits.clone()));
                last = Some((step, exits));
            }
        }
        if interrupted.load(Ordering::SeqCst) && run.trainer().steps_done() < settings.steps {
            let checkpoint = run.checkpoint()?;
            progress.finish();
            println!("stopped; checkpoint: {}", checkpoint.display());
            println!("continue with the same command and --resume");
            return Ok(());
        }
    }
    progress.finish();
    let (model, _) = run.finish()?;
    if let Some(tokens) = draft_tokens {
        save_draft_tokens(&model, &tokens)?;
    }
    if let (Some((before, first)), Some((after, last))) = (first, last) {
        let rows = first.iter().zip(&last);
        let rows = rows.map(|(a, b)| [a.exit.to_string(), figure(a.loss), figure(b.loss)]);
        let at = |step| format!("validation loss, step {step}");
        println!("{}", table(&["exit", &at(before), &at(after)], rows));
    }
    println!("model: {}", model.display());
    if args.lora.is_some() {
        println!("adapter: {}", args.out.join("adapter").display());
    }
    println!("log:   {}", args.out.join("log.jsonl").display());
    Ok(())
}

/// "12: 7.81  30: 5.20"
fn losses(exits: &[ExitLoss]) -> String {
    let one = |exit: &ExitLoss| format!("{}: {:.3}", exit.exit, exit.loss);
    exits.iter().map(one).collect::<Vec<_>>().join("  ")
}

/// The first few row numbers.
fn listed(rows: &[usize]) -> String {
    let shown: Vec<String> = rows.iter().take(10).map(usize::to_string).collect();
    let more = if rows.len() > 10 { ", ..." } else { "" };
    format!("{}{more}", shown.join(", "))
}
