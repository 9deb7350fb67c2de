//! `soft finetune`: fine-tunes a LLaMA folder on a file of rows by SoFT, SFT, SFT+ICT or Balcony.
//!
//! The defaults are those of Sorted LLaMA (arXiv 2309.08968): AdamW, learning rate 2e-5 with cosine
//! decay, batches of 32 accumulated 8 times, seed 42, 2 epochs. Its table 1 compares SoFT with SFT
//! on Alpaca, table 3 on TriviaQA.

mod args;
mod rows;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use soft_burn::{
    ExitLoss, LlamaConfig, LogLine, Run, RunSettings, devices, keep_freed_memory, save_draft_tokens,
};
use soft_core::Exits;
use soft_data::{EncodeReport, Loader};
use soft_eval::numbers::number;
use soft_eval::results::Input;
use soft_examples::evaluation::{fingerprint, fingerprint_of_model};
use soft_examples::hub::model_folder;
use soft_examples::kernels::CompilationProgress;
use soft_examples::model;
use soft_examples::progress::Progress;
use soft_examples::table::table;
use soft_examples::tensorboard::EventFile;
use soft_examples::{outln, statusln};

pub use args::Args;
use rows::{Rows, fingerprint_of_examples};

use crate::draft_tokens::draft_tokens_of;

pub fn run(mut args: Args) -> Result<()> {
    keep_freed_memory();
    // Cheap checks come first: arguments, then small files, then the weights.
    ensure!(
        args.resume || !args.out.exists(),
        "{} is there already: name a new folder, or add --resume to continue it",
        args.out.display()
    );
    let (device, further) = devices(&args.device)?;
    ensure!(
        further.is_empty() || further.len() < args.accumulation,
        "--device names {} devices for {} micro-batches per step: expected at least one each, --accumulation {}",
        further.len() + 1,
        args.accumulation,
        further.len() + 1
    );
    ensure!(
        args.epochs > 0.0 && args.epochs <= MOST_EPOCHS,
        "--epochs is {}: expected a number above 0, at most {MOST_EPOCHS}",
        args.epochs
    );
    for path in [&args.model, &args.rows.data] {
        ensure!(
            path.to_str().is_some(),
            "{} is not valid UTF-8, so run.json cannot record it",
            path.display()
        );
    }
    // An upper bound: without --steps, the number of steps follows from the rows.
    let most_steps = args.steps.unwrap_or(u64::MAX);
    if let Some(exits) = &args.exits {
        args.train_settings(exits.clone(), most_steps)?.validate()?;
    }
    args.model = model_folder(&args.model)?;
    let config = LlamaConfig::load(&args.model)?;
    let exits = match &args.exits {
        Some(exits) => exits.clone(),
        None => Exits::every(4, config.n_layers.min(4)..=config.n_layers)?,
    };
    let exits = exits.for_depth(config.n_layers)?;
    args.train_settings(exits.clone(), most_steps)?
        .check_within(&config)?;
    let Rows {
        data,
        report,
        files,
    } = Rows::load(&args, &config)?;
    let settings = run_settings(&args, exits, &data.stream, report)?;
    settings.validate()?;
    let draft_tokens = draft_tokens_of(data.stream.examples(), config.vocab);
    let run = if args.resume {
        Run::resume(&args.out, settings, data, &device)?
    } else {
        Run::start(
            &args.out,
            model::load(&args.model, &device)?,
            settings,
            data,
        )?
    };
    let run = run.with_devices(further)?.with_files(files);
    let is_cpu = |name: &str| ["cpu", "flex"].contains(&name.trim());
    let compared = cfg!(feature = "flex") && !args.device.split(',').all(is_cpu);
    let run = if compared && args.canary > 0 {
        run.with_canary(args.canary)
    } else {
        run
    };
    if args.resume && run.trainer().steps_done() == 0 {
        statusln!(
            "note: the run has no checkpoint and starts again from {}",
            args.model.display()
        );
    }
    train(run, &args, draft_tokens)
}

/// A sanity limit, far above any real training.
const MOST_EPOCHS: f64 = 1e6;

fn run_settings(
    args: &Args,
    exits: Exits,
    loader: &Loader,
    rows: EncodeReport,
) -> Result<RunSettings> {
    let per_epoch = loader.batches_per_epoch() as f64 / args.accumulation.max(1) as f64;
    let steps = args
        .steps
        .unwrap_or((per_epoch * args.epochs).ceil() as u64);
    warn_of_long_steps(args, per_epoch, steps);
    Ok(RunSettings {
        train: args.train_settings(exits, steps)?,
        validate_every: Some(args.validate_every),
        checkpoint_every: Some(args.checkpoint_every),
        keep_checkpoints: args.keep,
        base: args.model.clone(),
        provenance: serde_json::json!({
            // The content, so that a resumed run detects a change.
            "data": {args.rows.data.display().to_string(): content_of(&args.rows.data)?},
            "base": fingerprint_of_model(&args.model)?,
            "format": args.rows.format,
            "limit": args.rows.limit,
            "max_len": args.rows.max_len,
            "batch": args.rows.batch,
            "pack": args.pack,
            "seed": args.seed,
            "validation": args.validation,
            "rows": rows,
            "tokens": fingerprint_of_examples(loader.examples()),
        }),
    })
}

/// Warns if a single step takes more rows than --epochs specifies.
fn warn_of_long_steps(args: &Args, steps_per_epoch: f64, steps: u64) {
    let passes = steps as f64 / steps_per_epoch;
    if args.steps.is_none() && passes > 1.5 * args.epochs {
        statusln!(
            "warning: --epochs {} becomes {steps} step, which passes over the rows {passes:.1} \
             times: it takes {} micro-batches, and there are {:.0}; a lower --accumulation makes \
             shorter steps",
            args.epochs,
            args.accumulation,
            steps_per_epoch * args.accumulation as f64
        );
    }
}

fn content_of(path: &Path) -> Result<String> {
    let Input { bytes, crc32c, .. } = fingerprint(path)?;
    Ok(format!("{bytes} bytes, CRC-32C {crc32c}"))
}

/// Trains until the run is finished or interrupted by Ctrl-C.
fn train(mut run: Run<Loader>, args: &Args, draft_tokens: Option<Vec<u32>>) -> Result<()> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    let stop = move || {
        if flag.swap(true, Ordering::SeqCst) {
            statusln!("stopped at once; the last checkpoint is kept");
            std::process::exit(130);
        }
        statusln!("finishing the step, then writing a checkpoint; again to stop now");
    };
    ctrlc::set_handler(stop).context("cannot catch Ctrl-C")?;

    let settings = run.trainer().settings().clone();
    let mut progress = Progress::new(
        settings.method.name().as_str(),
        settings.steps,
        run.trainer().steps_done(),
    );
    let mut events = if args.tensorboard {
        let folder = args.out.join("tensorboard");
        Some(EventFile::create(&folder, &args.out.join("log.jsonl"))?)
    } else {
        None
    };
    let (mut first, mut last) = (None, None);
    let mut profile = args.profile.start("step");
    let mut compiling = Some(CompilationProgress::start());
    // Not a `for` loop: `run` is used inside.
    while let Some(line) = run.next() {
        let line = line?;
        if let Some(Err(error)) = events.as_mut().map(|events| events.add(&line)) {
            progress.say(&format!("{error:#}; continuing without TensorBoard"));
            events = None;
        }
        match line {
            LogLine::Train(report) => {
                drop(compiling.take());
                if let Some(profile) = &mut profile {
                    progress.say(&profile.lap());
                }
                let speed = report.tokens_per_second;
                progress.step(&format!("{} {speed:.0} tokens/s", losses(&report.exits)));
            }
            LogLine::Validation { step, exits } => {
                if let Some(profile) = &mut profile {
                    progress.say(&profile.aside("validation"));
                }
                progress.say(&format!("step {step}: validation loss {}", losses(&exits)));
                first.get_or_insert_with(|| (step, exits.clone()));
                last = Some((step, exits));
            }
        }
        if interrupted.load(Ordering::SeqCst) {
            let checkpoint = run.checkpoint()?;
            if run.trainer().steps_done() == settings.steps {
                // Only the final validation and the export are left.
                continue;
            }
            progress.finish();
            outln!("stopped; checkpoint: {}", checkpoint.display());
            outln!("continue with the same command and --resume");
            return Ok(());
        }
    }
    progress.finish();
    if let Some(profile) = profile {
        profile.finish();
    }
    let (model, _) = run.finish()?;
    if let Some(tokens) = draft_tokens {
        save_draft_tokens(&model, &tokens)?;
    }
    if let (Some((before, first)), Some((after, last))) = (first, last) {
        let rows = first.iter().zip(&last);
        let rows = rows.map(|(a, b)| [a.exit.to_string(), number(a.loss), number(b.loss)]);
        let at = |step| format!("validation loss, step {step}");
        outln!("{}", table(&["exit", &at(before), &at(after)], rows));
    }
    outln!("model: {}", model.display());
    if args.lora.is_some() {
        outln!("adapter: {}", args.out.join("adapter").display());
    }
    outln!("log:   {}", args.out.join("log.jsonl").display());
    Ok(())
}

/// "12: 7.81  30: 5.20"
fn losses(exits: &[ExitLoss]) -> String {
    let one = |exit: &ExitLoss| format!("{}: {:.3}", exit.exit, exit.loss);
    exits.iter().map(one).collect::<Vec<_>>().join("  ")
}
