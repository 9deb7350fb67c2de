//! A training step by SFT against one by SoFT with a few and many exits, memory-flat, plain and
//! sampled, and against those that train a part of the model: time, counted cost and peak memory,
//! side by side in one run.
//!
//! Sorted LLaMA reports 0.98 times the time and 1.27 times the memory (table of training cost, 13B
//! on 8 V100). All sides take the same batches; steps alternate, so that whatever else the machine
//! does falls on all; medians are compared, and for sampled exits, whose steps differ, means.
//! Memory is the peak of a process of its own per side, since a peak never falls again.
//!
//! `cargo bench -p soft-benches` measures the tiny and the 135M-shaped model. Weights are random:
//! neither time nor memory depends on their values.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use soft_benches::{Same, batch, smollm2, tiny};
use soft_burn::{
    BodyOptions, ExitLoss, Llama, LlamaConfig, Lora, Method, Objective, SampledPerBatch,
    SoftOptions, TrainSettings, TrainedWeights, Trainer, device, keep_freed_memory,
};
use soft_core::{Batch, Exits};

#[derive(Parser)]
struct Args {
    /// Steps per side and shape
    #[arg(long, default_value_t = 9)]
    steps: usize,
    /// Shapes to measure [default: all]
    #[arg(long)]
    shape: Option<Shape>,
    /// Sides to measure, SFT always among them [default: all]
    #[arg(long, value_delimiter = ',')]
    sides: Vec<Side>,
    /// Measure one side alone and print the peak of this process (used by the bench itself)
    #[arg(long, hide = true)]
    alone: Option<Side>,
    /// What `cargo bench` passes
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Side {
    Sft,
    /// By the memory-flat objective.
    Soft2,
    Soft4,
    Soft7,
    /// With gradient checkpointing.
    Checkpointed7,
    /// One of seven exits a step.
    Sampled7,
    /// By the plain objective.
    Plain2,
    Plain4,
    Plain7,
    /// SoFT with adapters of rank 16, all else frozen.
    Lora7,
    /// SoFT of the last four blocks.
    Last7,
    /// One head per intermediate exit, all else frozen.
    Ict7,
    /// One block and norm per intermediate exit, all else frozen.
    Balcony7,
}

impl Side {
    fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether all weights are trained, which is what the count of operations is for.
    fn trains_everything(self) -> bool {
        !matches!(
            self,
            Self::Lora7 | Self::Last7 | Self::Ict7 | Self::Balcony7
        )
    }

    fn is_sampled(self) -> bool {
        self == Self::Sampled7
    }

    /// Exits of a model as deep as `depth`: as many as the name says, from 2/5 of the depth on,
    /// where the paper starts, evenly.
    fn exits(self, depth: usize) -> Result<Exits> {
        let count = match self {
            Self::Sft => 1,
            Self::Soft2 | Self::Plain2 => 2,
            Self::Soft4 | Self::Plain4 => 4,
            _ => 7,
        };
        let first = depth * 2 / 5;
        let between = |index: usize| depth - (depth - first) * index / (count - 1).max(1);
        Ok(Exits::new((0..count).rev().map(between))?)
    }

    fn settings(self, depth: usize) -> Result<TrainSettings> {
        let (method, objective) = match self {
            Self::Sft => (Method::sft(), Objective::Flat),
            Self::Soft2 | Self::Soft4 | Self::Soft7 | Self::Checkpointed7 => {
                (Method::soft(), Objective::Flat)
            }
            Self::Sampled7 => {
                let sampled_exits = Some(SampledPerBatch { draws: 1, seed: 42 });
                let soft = SoftOptions {
                    sampled_exits,
                    ..SoftOptions::default()
                };
                (Method::Soft(soft), Objective::Flat)
            }
            Self::Plain2 | Self::Plain4 | Self::Plain7 => (Method::soft(), Objective::Plain),
            Self::Lora7 => {
                let lora = TrainedWeights::Lora(Lora::new(16));
                (soft_with(lora), Objective::Flat)
            }
            Self::Last7 => (soft_with(TrainedWeights::LastBlocks(4)), Objective::Flat),
            Self::Ict7 => (Method::ict(), Objective::Flat),
            Self::Balcony7 => (Method::balcony(), Objective::Flat),
        };
        Ok(TrainSettings {
            objective,
            gradient_checkpointing: self == Self::Checkpointed7,
            ..TrainSettings::new(method, self.exits(depth)?, 1_000_000)
        })
    }
}

/// SoFT of these weights.
fn soft_with(trained: TrainedWeights) -> Method {
    Method::Soft(SoftOptions {
        body: BodyOptions {
            trained,
            ..BodyOptions::default()
        },
        ..SoftOptions::default()
    })
}

#[derive(Clone, Copy, ValueEnum)]
enum Shape {
    /// A small one: 15 blocks, batch 32.
    Tiny,
    /// SmolLM2-135M: 30 blocks, batch 8.
    Smollm2,
    /// The same, 2 rows of 128 tokens, half of them supervised: what `peers/training_step.py` runs
    /// in PyTorch.
    Smollm2Long,
    /// The same, 8 rows of 512 tokens, half of them supervised; not measured by default.
    Smollm2Wide,
}

impl Shape {
    const ALL: [Self; 3] = [Self::Tiny, Self::Smollm2, Self::Smollm2Long];

    fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Smollm2 => "smollm2",
            Self::Smollm2Long => "smollm2-long",
            Self::Smollm2Wide => "smollm2-wide",
        }
    }

    fn config(self) -> LlamaConfig {
        match self {
            Self::Smollm2 | Self::Smollm2Long | Self::Smollm2Wide => smollm2(),
            Self::Tiny => tiny(),
        }
    }

    /// Rows, their length, and the position from which they are learned: as TriviaQA has them, 30
    /// tokens and the last 5, or long ones.
    fn rows(self) -> (usize, usize, usize) {
        match self {
            Self::Tiny => (32, 30, 25),
            Self::Smollm2 => (8, 30, 25),
            Self::Smollm2Long => (2, 128, 64),
            Self::Smollm2Wide => (8, 512, 256),
        }
    }

    fn batch(self) -> Result<Batch> {
        let (rows, length, learnt) = self.rows();
        batch((rows, length), learnt, self.config().vocab)
    }

    fn trainer(self, side: Side) -> Result<Trainer> {
        let model = Llama::random(self.config(), 42, &device("cpu")?)?;
        let settings = side.settings(self.config().n_layers)?;
        Ok(Trainer::new(model, settings)?)
    }

    /// Floating-point operations of the matrix products of a step that trains these exits, in units
    /// of 10⁹: two for each weight and state, and as many again for each of the two gradients.
    fn giga_flops(self, exits: &[ExitLoss]) -> f64 {
        let config = self.config();
        let (rows, length, learnt) = self.rows();
        let (states, targets) = (rows * length, rows * (length - learnt));
        let heads = config.head_dim * (2 * config.n_heads + 2 * config.n_kv_heads);
        let block = config.d_model * (heads + 3 * config.d_feed_forward);
        // Scores and mixtures: every query with every key, as they are computed.
        let attention = 2 * length * config.n_heads * config.head_dim;
        let depths = exits.iter().map(|exit| exit.exit.depth());
        let blocks = depths.max().unwrap_or(0) * states * (block + attention);
        let head = exits.len() * targets * config.d_model * config.vocab;
        6.0 * (blocks + head) as f64 / 1e9
    }
}

fn main() -> Result<()> {
    keep_freed_memory();
    let args = Args::parse();
    if let (Some(side), Some(shape)) = (args.alone, args.shape) {
        return measure_memory(side, shape, args.steps);
    }
    let chosen =
        |side: &Side| *side == Side::Sft || args.sides.is_empty() || args.sides.contains(side);
    let sides: Vec<Side> = Side::value_variants()
        .iter()
        .copied()
        .filter(chosen)
        .collect();
    println!(
        "training step, SFT against SoFT; {} cores",
        std::thread::available_parallelism()?
    );
    println!("| shape | step | exits | s/step | of SFT | GFLOP/step | of SFT | peak MB | of SFT |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for shape in args.shape.map_or(Shape::ALL.to_vec(), |shape| vec![shape]) {
        let costs = costs(shape, &sides, args.steps)?;
        let (sft, mut sft_peak) = (costs[0], None);
        for (&side, cost) in sides.iter().zip(&costs) {
            let peak = peak_of_own_process(side, shape)?;
            let of_sft = peak / *sft_peak.get_or_insert(peak);
            let counted = if side.trains_everything() {
                let of_sft = cost.giga_flops / sft.giga_flops;
                format!("{:.0} | {of_sft:.2}", cost.giga_flops)
            } else {
                "– | –".to_owned()
            };
            println!(
                "| {} | {} | {} | {:.3} | {:.2} | {counted} | {peak:.0} | {of_sft:.2} |",
                shape.name(),
                side.name(),
                side.exits(shape.config().n_layers)?,
                cost.seconds,
                cost.seconds / sft.seconds,
            );
        }
    }
    Ok(())
}

/// What a step takes.
#[derive(Clone, Copy)]
struct Cost {
    seconds: f64,
    giga_flops: f64,
}

/// Cost of a step of each side, taken in turns after one of each to warm up.
fn costs(shape: Shape, sides: &[Side], steps: usize) -> Result<Vec<Cost>> {
    let mut trainers = Vec::new();
    for &side in sides {
        trainers.push((side, shape.trainer(side)?, Vec::new()));
    }
    let mut stream = Same(shape.batch()?);
    for step in 0..=steps {
        for (_, trainer, costs) in &mut trainers {
            let started = Instant::now();
            let report = trainer.step(&mut stream)?;
            if step > 0 {
                costs.push(Cost {
                    seconds: started.elapsed().as_secs_f64(),
                    giga_flops: shape.giga_flops(&report.exits),
                });
            }
        }
    }
    let summed = trainers.into_iter().map(|(side, _, mut costs)| {
        costs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        let mean = |of: fn(&Cost) -> f64| costs.iter().map(of).sum::<f64>() / costs.len() as f64;
        if side.is_sampled() {
            Cost {
                seconds: mean(|cost| cost.seconds),
                giga_flops: mean(|cost| cost.giga_flops),
            }
        } else {
            costs[costs.len() / 2]
        }
    });
    Ok(summed.collect())
}

/// Runs this program again for one side and reads the peak it prints.
fn peak_of_own_process(side: Side, shape: Shape) -> Result<f64> {
    let side = &side.name();
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
