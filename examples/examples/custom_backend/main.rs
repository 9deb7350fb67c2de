//! A second implementation of soft-core's traits, on candle, compared with that on Burn: laws of
//! models and of decoding, losses, tokens in every mode, and some training steps. Decoder and
//! sorted loss are those of soft-core. Run it:
//! `cargo run --release -p soft-examples --features candle --example custom_backend`.

mod attention;
mod decode;
mod folder;
mod llama;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use clap::Parser;
use soft_core::conformance::{DecodingLaws, Equality, Laws};
use soft_core::decode::{DraftLength, DynamicExits, Speculation, Step};
use soft_core::loss::AllExits;
use soft_core::policy::Confidence;
use soft_core::{
    Batch, BatchModel, DecodeModel, DecodeSettings, Decoder, Example, Exits, LossSchedule,
    MicroBatch, Mode, NestedModel, Prompt, Thresholds, sorted_loss,
};
use soft_examples::hub::model_folder;
use soft_examples::table::table;
use soft_examples::terminal;

use crate::folder::Folder;
use crate::llama::Llama;
use soft_examples::outln;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tiny-llama");
/// Tolerance for the rounding of f32 logits.
const TOLERANCE: f64 = 1e-3;

#[derive(Parser)]
#[command(about = "A LLaMA on candle beside the one on Burn: the same laws, losses and tokens")]
struct Args {
    /// Model folder, or org/name[@revision] of a hub
    #[arg(default_value = TINY)]
    model: PathBuf,
    /// Exits, the last one the full depth [default: every quarter of it]
    #[arg(long)]
    exits: Option<Exits>,
    /// Most tokens of an answer
    #[arg(long, default_value_t = 24)]
    max_new_tokens: usize,
    /// Steps of training
    #[arg(long, default_value_t = 10)]
    steps: u64,
}

fn main() -> ExitCode {
    terminal::run(run)
}

fn run() -> Result<()> {
    let args = Args::parse();
    let model = model_folder(&args.model)?;
    let mut folder = Folder::read(&model)?;
    let variables = folder.variables()?;
    let candle = Llama::new(&folder).with_context(|| model.display().to_string())?;
    let burn = soft_burn::Llama::from_pretrained(&model, &soft_burn::device("cpu")?)?;
    let depth = candle.depth();
    let exits = match args.exits {
        Some(exits) => exits,
        None => {
            let quarter = depth.div_ceil(4);
            Exits::every(quarter, quarter..=depth)?
        }
    }
    .for_depth(depth)?;
    // Any tokens will do, since both libraries read the same.
    let vocab = candle.vocab() as u32;
    let text = |row: u32, length: u32| {
        (0..length)
            .map(|at| (at * 37 + row * 11 + 1) % vocab)
            .collect::<Vec<_>>()
    };

    let rows: Vec<_> = (0..3).map(|row| text(row, 9)).collect();
    Laws {
        model: &candle,
        rows: rows.clone(),
        exits: exits.clone(),
        tolerance: TOLERANCE,
    }
    .check()?;
    outln!("candle obeys the laws of a nested model");
    let prompts: Vec<_> = (0..3)
        .map(|row| Prompt::from(text(row, 3 + 2 * row)))
        .collect();
    let mut short = candle.clone();
    short.context = short.context.min(48);
    let laws = DecodingLaws {
        tolerance: TOLERANCE,
        equality: Equality::WithinRounding,
        ..DecodingLaws::new(&short, prompts.clone(), exits.clone())
    };
    outln!(
        "candle obeys the laws of decoding, tried on {} answers",
        laws.check()?.sequences
    );

    let examples: Vec<_> = rows.into_iter().map(Example::text).collect();
    let batch = Batch::from_examples(&examples.iter().collect::<Vec<_>>())?;
    same_losses(&candle, &burn, &batch, &exits)?;
    same_tokens(&candle, &burn, &prompts, &exits, args.max_new_tokens)?;
    let settings = ParamsAdamW {
        lr: 1e-3,
        ..ParamsAdamW::default()
    };
    learns(
        &candle,
        AdamW::new(variables, settings)?,
        &batch,
        &exits,
        args.steps,
    )
}

fn same_losses(
    candle: &Llama,
    burn: &soft_burn::Llama,
    batch: &Batch,
    exits: &Exits,
) -> Result<()> {
    let mean = |scores: &Vec<soft_core::model::TargetScore>| {
        scores.iter().map(|score| score.nats).sum::<f64>() / scores.len() as f64
    };
    let ours: Vec<f64> = candle
        .batch_scores(batch, exits)?
        .iter()
        .map(mean)
        .collect();
    let theirs: Vec<f64> = burn.batch_scores(batch, exits)?.iter().map(mean).collect();
    let mut rows = Vec::new();
    for ((exit, ours), theirs) in exits.iter().zip(&ours).zip(&theirs) {
        ensure!(
            (ours - theirs).abs() < TOLERANCE,
            "exit {exit}: loss {ours} on candle, {theirs} on Burn"
        );
        rows.push([
            exit.to_string(),
            format!("{ours:.6}"),
            format!("{theirs:.6}"),
        ]);
    }
    let losses = table(&["exit", "candle", "Burn"], rows);
    outln!("loss of each exit, in nats per token\n{losses}");
    Ok(())
}

fn same_tokens(
    candle: &Llama,
    burn: &soft_burn::Llama,
    prompts: &[Prompt],
    exits: &Exits,
    most: usize,
) -> Result<()> {
    let mut rows = Vec::new();
    for name in ["full", "dynamic", "speculative"] {
        let ours = answers(candle, prompts, name, exits, most)?;
        let theirs = answers(burn, prompts, name, exits, most)?;
        ensure!(
            ours == theirs,
            "{name}: candle and Burn part\n{ours:?}\n{theirs:?}"
        );
        let early = ours.iter().filter(|step| step.exit != exits.last());
        rows.push([
            name.to_owned(),
            ours.len().to_string(),
            early.count().to_string(),
        ]);
    }
    let headings = ["greedy decoding", "tokens, the same", "of early exits"];
    outln!("{}", table(&headings, rows));
    Ok(())
}

fn answers<M: DecodeModel>(
    model: &M,
    prompts: &[Prompt],
    mode: &str,
    exits: &Exits,
    most: usize,
) -> Result<Vec<Step>> {
    let mode = match mode {
        "full" => Mode::Static(exits.last()),
        "dynamic" => Mode::Dynamic(DynamicExits::new(
            exits.clone(),
            Box::new(Confidence(Thresholds::all(0.3))),
        )),
        _ => Mode::Speculative(Speculation::at(
            exits.iter().next().unwrap_or(exits.last()),
            exits.last().depth(),
            DraftLength::Fixed(3),
        )?),
    };
    let settings = DecodeSettings::greedy(mode, most);
    Ok(Decoder::new(model, prompts, settings)?.collect::<Result<_, _>>()?)
}

/// Trains on one batch with the sorted loss, which must fall at every exit.
fn learns(
    model: &Llama,
    mut optimizer: AdamW,
    batch: &Batch,
    exits: &Exits,
    steps: u64,
) -> Result<()> {
    let targets = batch.targets().len() as f64;
    let (tokens, wanted) = model.prepare(batch)?;
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for step in 1..=steps {
        let weights = AllExits.weights(exits, MicroBatch::of_step(step));
        let output = sorted_loss(model, (&tokens, &wanted), exits, &weights, targets)?;
        let read = |(_, loss): &(_, Tensor)| Ok(f64::from(loss.to_scalar::<f32>()?) / targets);
        last = output
            .per_exit
            .iter()
            .map(read)
            .collect::<Result<Vec<_>>>()?;
        if first.is_empty() {
            first.clone_from(&last);
        }
        optimizer.backward_step(&output.total)?;
    }
    for (exit, (first, last)) in exits.iter().zip(first.iter().zip(&last)) {
        outln!("exit {exit}: loss {first:.3} before, {last:.3} in step {steps}");
        ensure!(steps < 2 || last < first, "exit {exit} learns nothing");
    }
    Ok(())
}
