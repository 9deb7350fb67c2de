//! Decoding: every mode compared with plain decoding, passes over several states with passes over
//! one, a batch with its rows one by one. Both sides of each figure are measured in turns in one
//! run; medians and ratios.
//!
//! `cargo bench --bench decoding` measures a 135M-shaped model with random weights, which shows
//! costs but no acceptance. `cargo bench --bench decoding -- --model FOLDER --prompts FILE` decodes
//! real prompts.

use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Parser;
use soft_benches::{median, smollm2};
use soft_burn::{Llama, device};
use soft_core::model::Head;
use soft_core::{DecodeModel, DecodeSettings, Decoder, Exit, Mode, NestedModel, Past, Prompt};
use soft_eval::numbers::percent;
use soft_eval::{Journal, SpeedFigures};
use soft_examples::decoding::DecodingArgs;
use soft_examples::eval_model::{EvalModel, NamedFolder};
use soft_examples::prompts::PromptArgs;
use soft_examples::speed::SpeedRun;
use soft_examples::table::table;
use soft_examples::tokens::TokenArgs;

#[derive(Parser)]
struct Args {
    /// Model folder [default: a 135M-shaped model with random weights]
    #[arg(long)]
    model: Option<NamedFolder>,
    #[command(flatten)]
    source: PromptArgs,
    #[command(flatten)]
    decoding: DecodingArgs,
    /// Modes to compare with plain decoding; "dynamic" takes --thresholds
    #[arg(long, value_delimiter = ',')]
    modes: Vec<String>,
    /// Repetitions of the figures that are medians
    #[arg(long, default_value_t = 15)]
    times: usize,
    /// What `cargo bench` passes
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let device = device("cpu")?;
    let Some(folder) = &args.model else {
        let model = Llama::random(smollm2(), 42, &device)?;
        passes(&model, args.times)?;
        return batches(&model, args.times.min(5));
    };
    ensure!(
        !args.modes.is_empty(),
        "no --modes to compare: try --modes speculative,auto"
    );
    let subject = EvalModel::load(folder, &device, &TokenArgs::default())?;
    let prompts = args.source.read(&subject.reader())?;
    for mode in &args.modes {
        args.of_mode(mode)
            .settings(&subject.trained, &subject.tokenizer)?;
    }
    passes(&subject.model, args.times)?;
    batches(&subject.model, args.times.min(5))?;
    modes(&args, &subject, &prompts)
}

impl Args {
    /// The given settings, in another mode.
    fn of_mode(&self, mode: &str) -> DecodingArgs {
        DecodingArgs {
            mode: mode.to_owned(),
            ..self.decoding.clone()
        }
    }
}

/// One pass of the whole model and its head over n states of one row, 64 positions into the text.
fn passes(model: &Llama, times: usize) -> Result<()> {
    let counts = [1, 2, 3, 4, 5, 8];
    let mut seconds = vec![Vec::new(); counts.len()];
    let full = Exit::new(model.depth())?;
    let mut cache = model.empty_cache(1, 128)?;
    let mut pass = |n: usize| -> Result<f64> {
        let begun = Instant::now();
        let hidden = model.embed(&model.tokens(&[vec![7; n]])?)?;
        let past = Past {
            cache: &mut cache,
            query_lens: &[n],
        };
        let hidden = model.blocks(hidden, 0..full.depth(), Some(past))?;
        model.best_tokens(&hidden, Head::Full(full))?;
        let elapsed = begun.elapsed().as_secs_f64();
        cache.truncate(0, 64);
        Ok(elapsed)
    };
    pass(64)?;
    for _ in 0..times {
        for (n, seconds) in counts.iter().zip(&mut seconds) {
            seconds.push(pass(*n)?);
        }
    }
    let medians: Vec<f64> = seconds.into_iter().map(median).collect();
    println!("\nOne pass over n states: median of {times}");
    let rows = counts.iter().zip(&medians).map(|(n, time)| {
        vec![
            n.to_string(),
            format!("{:.1}", 1000.0 * time),
            format!("{:.2}", time / medians[0]),
        ]
    });
    println!("{}", table(&["states", "ms", "times one state"], rows));
    Ok(())
}

/// Eight prompts of 8 to 64 tokens: one ragged batch and each alone, 32 tokens each, prompts not
/// counted.
fn batches(model: &Llama, times: usize) -> Result<()> {
    let prompts: Vec<Prompt> = (1..9u32)
        .map(|row| {
            Prompt::from(
                (0..8 * row)
                    .map(|i| (i * 37 + row) % 101)
                    .collect::<Vec<_>>(),
            )
        })
        .collect();
    let full = Exit::new(model.depth())?;
    let run = |prompts: &[Prompt]| -> Result<f64> {
        let mut decoder = Decoder::new(
            model,
            prompts,
            DecodeSettings::greedy(Mode::Static(full), 32),
        )?;
        decoder.run()?;
        Ok(decoder.statistics().full.as_secs_f64())
    };
    let (mut single, mut batched) = (Vec::new(), Vec::new());
    for _ in 0..times {
        let mut seconds = 0.0;
        for prompt in &prompts {
            seconds += run(std::slice::from_ref(prompt))?;
        }
        single.push(seconds);
        batched.push(run(&prompts)?);
    }
    let tokens = 8.0 * 31.0; // the prompt's pass gives the first
    let (single, batched) = (median(single), median(batched));
    println!("\nEight ragged rows: median of {times}");
    let row = |name: &str, time: f64| {
        vec![
            name.to_owned(),
            format!("{:.1}", tokens / time),
            format!("{:.2}", single / time),
        ]
    };
    let rows = [row("one by one", single), row("one batch", batched)];
    println!("{}", table(&["", "tokens/s", "speed"], rows));
    Ok(())
}

fn modes(args: &Args, subject: &EvalModel, prompts: &[Prompt]) -> Result<()> {
    let names = std::iter::once("full").chain(args.modes.iter().map(String::as_str));
    let modes: Vec<_> = names
        .map(|name| (name.to_owned(), args.of_mode(name)))
        .collect();
    let contest = SpeedRun {
        subject,
        modes: &modes,
        data: String::new(),
        prompts,
        least_agreement: 1.0,
    };
    let found = contest.run(&mut Journal::unsaved())?;
    println!(
        "\n{} prompts, at most {} new tokens, one at a time",
        prompts.len(),
        args.decoding.max_new_tokens
    );
    let headings = [
        "mode",
        "tokens",
        "tokens/s",
        "ms/token",
        "median speed",
        "mean depth",
        "accepted %",
        "same answers %",
        "same beginning %",
        "agreement %",
        "blocks/token",
        "weight loads/token",
        "heads/token",
        "draft heads/token",
        "GFLOP/token",
        "draft s",
        "full s",
        "prompts s",
    ];
    let rows = found.rows.iter().zip(&found.settings);
    let rows = rows.map(|(figures, setting)| row(figures, setting.agreement));
    println!("{}", table(&headings, rows));
    Ok(())
}

fn row(figures: &SpeedFigures, agreement: f64) -> Vec<String> {
    let f = figures;
    vec![
        f.mode.clone(),
        f.tokens.to_string(),
        format!("{:.1}", f.tokens_per_second),
        format!("{:.1}", f.ms_per_token),
        f.speedup.map_or("–".to_owned(), |speedup| {
            format!("{:.2}", speedup.estimate)
        }),
        format!("{:.1}", f.mean_depth),
        f.acceptance.map_or("–".to_owned(), percent),
        percent(f.same_answers),
        percent(f.same_beginning),
        percent(agreement),
        format!("{:.1}", f.blocks),
        format!("{:.1}", f.block_readings),
        format!("{:.2}", f.heads),
        format!("{:.2}", f.draft_heads),
        format!("{:.3}", f.giga_flops),
        format!("{:.1}", f.draft_seconds),
        format!("{:.1}", f.full_seconds),
        format!("{:.1}", f.prefill_seconds),
    ]
}
