//! A training step by SFT against one by SoFT, memory-flat and plain: time and peak memory, side by side in one run.
//!
//! Sorted LLaMA reports 0.98 times the time and 1.27 times the memory (table of training cost,
//! 13B on 8 V100). Both sides take the same batches; steps alternate, so that whatever else the
//! machine does falls on both; medians are compared. Memory is the peak of a process of its own
//! per side, since a peak never falls again.
//!
//! `cargo bench -p soft-benches` measures the tiny and the 135M-shaped model. Weights are random:
//! neither time nor memory depends on their values.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use soft_benches::smollm2;
use soft_burn::{Llama, LlamaConfig, Method, Objective, TrainSettings, Trainer, device};
use soft_core::{Batch, BatchStream, Example, Exits, StreamPosition};

#[derive(Parser)]
struct Args {
    /// Steps per side and shape
    #[arg(long, default_value_t = 9)]
    steps: usize,
    /// Shapes to measure [default: both]
    #[arg(long)]
    shape: Option<Shape>,
    /// Measure one side alone and print the peak of this process (used by the bench itself)
    #[arg(long, hide = true)]
    alone: Option<Side>,
    /// What `cargo bench` passes
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Side {
    Sft,
    /// By the memory-flat objective.
    Soft,
    /// By the plain objective.
    SoftPlain,
}

impl Side {
    const ALL: [Self; 3] = [Self::Sft, Self::Soft, Self::SoftPlain];

    fn name(self) -> &'static str {
        match self {
            Self::Sft => "sft",
            Self::Soft => "soft",
            Self::SoftPlain => "soft-plain",
        }
    }

    fn settings(self, exits: Exits) -> TrainSettings {
        let (method, objective) = match self {
            Self::Sft => (Method::Sft, Objective::Flat),
            Self::Soft => (Method::Soft, Objective::Flat),
            Self::SoftPlain => (Method::Soft, Objective::Plain),
        };
        let settings = TrainSettings::new(method, exits, 1_000_000);
        TrainSettings {
            objective,
            ..settings
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Shape {
    /// The quickstart's model: 8 blocks, exits 2:8:2, batch 32.
    Tiny,
    /// SmolLM2-135M: 30 blocks, exits 12:30:3, batch 8.
    Smollm2,
    /// The same, 2 rows of 128 tokens, half of them supervised: what `peers/training_step.py` runs in PyTorch.
    Smollm2Long,
}

impl Shape {
    const ALL: [Self; 3] = [Self::Tiny, Self::Smollm2, Self::Smollm2Long];

    fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Smollm2 => "smollm2",
            Self::Smollm2Long => "smollm2-long",
        }
    }

    fn config(self) -> LlamaConfig {
        match self {
            Self::Smollm2 | Self::Smollm2Long => smollm2(),
            Self::Tiny => LlamaConfig {
                vocab: 218,
                d_model: 96,
                d_feed_forward: 256,
                n_layers: 8,
                n_heads: 6,
                n_kv_heads: 6,
                head_dim: 16,
                ..smollm2()
            },
        }
    }

    fn exits(self) -> Result<Exits> {
        Ok(match self {
            Self::Tiny => "2:8:2".parse()?,
            Self::Smollm2 | Self::Smollm2Long => "12:30:3".parse()?,
        })
    }

    /// Rows, their length, and the position from which they are learnt: as TriviaQA has them, 30 tokens and the last 5,
    /// or long ones.
    fn rows(self) -> (usize, usize, usize) {
        match self {
            Self::Tiny => (32, 30, 25),
            Self::Smollm2 => (8, 30, 25),
            Self::Smollm2Long => (2, 128, 64),
        }
    }

    fn batch(self) -> Result<Batch> {
        let (rows, length, learnt) = self.rows();
        let vocab = self.config().vocab;
        let row = |row: usize| {
            let tokens = (0..length)
                .map(|position| ((row * 31 + position * 7) % vocab) as u32)
                .collect();
            Example::new(tokens, (0..length).map(|at| at >= learnt).collect())
        };
        let rows = (0..rows).map(row).collect::<Result<Vec<_>, _>>()?;
        Ok(Batch::from_examples(&rows.iter().collect::<Vec<_>>(), 0)?)
    }

    fn trainer(self, side: Side) -> Result<Trainer> {
        let model = Llama::random(self.config(), 42, &device("cpu")?)?;
        Ok(Trainer::new(model, side.settings(self.exits()?))?)
    }
}

/// The same batch for ever.
struct Same(Batch);

impl BatchStream for Same {
    type Error = std::convert::Infallible;

    fn next_batch(&mut self) -> Result<Batch, Self::Error> {
        Ok(self.0.clone())
    }

    fn position(&self) -> StreamPosition {
        StreamPosition::default()
    }

    fn seek(&mut self, _position: StreamPosition) -> Result<(), Self::Error> {
        Ok(())
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let (Some(side), Some(shape)) = (args.alone, args.shape) {
        return measure_memory(side, shape, args.steps);
    }
    println!(
        "training step, SFT against SoFT; {} cores",
        std::thread::available_parallelism()?
    );
    println!("| shape | step | exits | s/step | of SFT | peak MB | of SFT |");
    println!("|---|---|---|---|---|---|---|");
    for shape in args.shape.map_or(Shape::ALL.to_vec(), |shape| vec![shape]) {
        let seconds = median_seconds(shape, args.steps)?;
        let peaks = Side::ALL.map(|side| peak_of_own_process(side, shape));
        let [sft, ..] = seconds;
        let mut sft_peak = None;
        for ((side, seconds), peak) in Side::ALL.into_iter().zip(seconds).zip(peaks) {
            let peak = peak?;
            let of_sft = peak / *sft_peak.get_or_insert(peak);
            println!(
                "| {} | {} | {} | {seconds:.3} | {:.2} | {peak:.0} | {of_sft:.2} |",
                shape.name(),
                side.name(),
                shape.exits()?,
                seconds / sft,
            );
        }
    }
    Ok(())
}

/// Median time of a step of each side, taken in turns after one of each to warm up.
fn median_seconds(shape: Shape, steps: usize) -> Result<[f64; Side::ALL.len()]> {
    let mut trainers = Vec::new();
    for side in Side::ALL {
        trainers.push(shape.trainer(side)?);
    }
    let mut stream = Same(shape.batch()?);
    let mut seconds = [const { Vec::new() }; Side::ALL.len()];
    for step in 0..=steps {
        for (trainer, seconds) in trainers.iter_mut().zip(&mut seconds) {
            let started = Instant::now();
            trainer.step(&mut stream)?;
            if step > 0 {
                seconds.push(started.elapsed().as_secs_f64());
            }
        }
    }
    Ok(seconds.map(|mut seconds| {
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    }))
}

/// Runs this program again for one side and reads the peak it prints.
fn peak_of_own_process(side: Side, shape: Shape) -> Result<f64> {
    let side = side.name();
    let arguments = ["--alone", side, "--shape", shape.name(), "--steps", "3"];
    let output = Command::new(std::env::current_exe()?)
        .args(arguments)
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    text.trim()
        .parse()
        .with_context(|| format!("the {side} process printed {text:?}"))
}

fn measure_memory(side: Side, shape: Shape, steps: usize) -> Result<()> {
    let (mut trainer, mut stream) = (shape.trainer(side)?, Same(shape.batch()?));
    for _ in 0..steps {
        trainer.step(&mut stream)?;
    }
    println!("{}", peak_megabytes()?);
    Ok(())
}

/// Largest resident memory this process had, as the kernel counts it.
fn peak_megabytes() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")
        .context("peak memory is read from /proc, on Linux")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    Ok(kilobytes.context("no VmHWM in /proc/self/status")? / 1000.0)
}
