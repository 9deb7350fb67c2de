//! Decoding: every mode beside plain decoding, passes over several states beside passes over one, a batch
//! beside its rows one by one. Both sides of each figure come from the same run, in turns; medians and ratios.
//!
//! `cargo bench --bench decoding` measures a 135M-shaped model with random weights, which shows costs but no
//! acceptance. `cargo bench --bench decoding -- --model FOLDER --prompts FILE` decodes real prompts.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Parser;
use soft_benches::smollm2;
use soft_burn::{Llama, device};
use soft_core::{
    DecodeModel, DecodeSettings, Decoder, Exit, Head, Mode, NestedModel, Past, Prompt, Statistics,
    Tuner,
};
use soft_data::Tokenizer;
use soft_examples::decoding::{DecodingArgs, Trained, keep_what_was_learnt};
use soft_examples::prompts::{PromptArgs, Reader};
use soft_examples::table::table;

#[derive(Parser)]
struct Args {
    /// Model folder [default: a 135M-shaped model with random weights]
    #[arg(long)]
    model: Option<PathBuf>,
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
    let model = match &args.model {
        Some(folder) => Llama::from_pretrained(folder, &device)?,
        None => Llama::random(smollm2(), 42, &device)?,
    };
    let prompts = match &args.model {
        Some(folder) => Some(Prompts::read(&args, folder, &model)?),
        None => None,
    };
    passes(&model, args.times)?;
    batches(&model, args.times.min(5))?;
    prompts.map_or(Ok(()), |prompts| modes(&args, &model, &prompts))
}

/// What a model's folder and the arguments say of its decoding.
struct Prompts {
    tokenizer: Tokenizer,
    trained: Trained,
    prompts: Vec<Prompt>,
}

impl Prompts {
    fn read(args: &Args, folder: &Path, model: &Llama) -> Result<Self> {
        let config = model.config();
        let tokenizer = Tokenizer::from_folder(folder, config.vocab)?;
        let trained = Trained::load(folder, config)?;
        let prompts = args.source.read(&Reader {
            folder,
            tokenizer: &tokenizer,
            context: config.max_positions,
        })?;
        ensure!(
            !args.modes.is_empty(),
            "no --modes to compare: try --modes speculative,auto"
        );
        for mode in &args.modes {
            args.of_mode(mode).settings(&trained, &tokenizer)?;
        }
        Ok(Self {
            tokenizer,
            trained,
            prompts,
        })
    }
}

impl Args {
    /// The settings asked for, in another mode.
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
            counts: &[n],
        };
        let hidden = model.blocks(hidden, 0..full.depth(), Some(past))?;
        model.best_tokens(&hidden, Head::Full(full))?;
        let elapsed = begun.elapsed().as_secs_f64();
        soft_core::KvCache::truncate(&mut cache, 0, 64);
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

/// Eight prompts of 8 to 64 tokens: one ragged batch beside each alone, 32 tokens each, prompts not counted.
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

/// What one mode made of all prompts.
#[derive(Default)]
struct Outcome {
    statistics: Statistics,
    /// Generation time of each prompt, its own pass not counted.
    seconds: Vec<f64>,
    answers: Vec<Vec<u32>>,
}

fn modes(args: &Args, model: &Llama, given: &Prompts) -> Result<()> {
    let prompts = &given.prompts;
    let names: Vec<String> = std::iter::once("full".to_owned())
        .chain(args.modes.iter().cloned())
        .collect();
    let mut outcomes: Vec<Outcome> = names.iter().map(|_| Outcome::default()).collect();
    let mut tuners: Vec<Option<Tuner>> = names.iter().map(|_| None).collect();
    for (index, prompt) in prompts.iter().enumerate() {
        // In turns, and not always in the same order.
        for turn in 0..names.len() {
            let mode = (index + turn) % names.len();
            let decoding = args.of_mode(&names[mode]);
            let mut settings = decoding.settings(&given.trained, &given.tokenizer)?;
            keep_what_was_learnt(&mut settings, &mut tuners[mode]);
            let mut decoder = Decoder::new(model, std::slice::from_ref(prompt), settings)?;
            decoder.run()?;
            let outcome = &mut outcomes[mode];
            let statistics = decoder.statistics();
            let time = statistics.draft + statistics.full;
            outcome.seconds.push(time.as_secs_f64());
            outcome.answers.push(decoder.answer(0).to_vec());
            outcome.statistics.add(statistics);
            tuners[mode] = decoder.into_tuner();
        }
    }
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
        "speed",
        "median speed",
        "mean depth",
        "accepted %",
        "same answers %",
        "agreement %",
        "blocks/token",
        "readings/token",
        "heads/token",
        "draft heads/token",
        "draft s",
        "full s",
        "prompts s",
    ];
    let plain = &outcomes[0];
    let rows = names
        .iter()
        .zip(&outcomes)
        .map(|(name, outcome)| row(name, outcome, plain));
    println!("{}", table(&headings, rows));
    Ok(())
}

fn row(name: &str, outcome: &Outcome, plain: &Outcome) -> Vec<String> {
    let s = &outcome.statistics;
    let per_token = |outcome: &Outcome| outcome.statistics.time_per_token().as_secs_f64();
    let ratios = outcome.answers.iter().zip(&outcome.seconds);
    let ratios = ratios.zip(plain.answers.iter().zip(&plain.seconds));
    let ratios: Vec<f64> = ratios
        .filter(|((a, _), (b, _))| a.len() > 1 && b.len() > 1)
        .map(|((a, time), (b, plain))| plain / (b.len() - 1) as f64 * (a.len() - 1) as f64 / time)
        .collect();
    let pairs = || outcome.answers.iter().zip(&plain.answers);
    let same = pairs().filter(|(a, b)| a == b).count() as f64 / outcome.answers.len() as f64;
    let agreeing: usize = pairs()
        .map(|(a, b)| a.iter().zip(b).take_while(|(a, b)| a == b).count())
        .sum();
    let all: usize = plain.answers.iter().map(Vec::len).sum();
    let accepted = match s.checked {
        0 => "–".to_owned(),
        _ => format!("{:.0}", 100.0 * s.acceptance_rate()),
    };
    vec![
        name.to_owned(),
        s.tokens().to_string(),
        format!("{:.1}", 1.0 / per_token(outcome)),
        format!("{:.1}", 1000.0 * per_token(outcome)),
        format!("{:.2}", per_token(plain) / per_token(outcome)),
        format!("{:.2}", median(ratios)),
        format!("{:.1}", s.mean_depth()),
        accepted,
        format!("{:.0}", 100.0 * same),
        format!("{:.0}", 100.0 * agreeing as f64 / all.max(1) as f64),
        format!("{:.1}", s.blocks_per_token()),
        format!("{:.1}", s.block_passes_per_token()),
        format!("{:.2}", s.heads_per_token()),
        format!("{:.2}", s.draft_heads_per_token()),
        format!("{:.1}", s.draft.as_secs_f64()),
        format!("{:.1}", s.full.as_secs_f64()),
        format!("{:.1}", s.prefill.as_secs_f64()),
    ]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
