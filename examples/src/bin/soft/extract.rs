//! `soft extract`: the first n blocks of a model as an ordinary Hugging Face folder, which
//! transformers, candle and llama.cpp load.
//!
//! For a model trained by SoFT, this is the sub-model, ready to serve. For any other model, it is
//! the starting point of the paper's baseline "Extracted Fine-Tuning":
//! `soft finetune --method sft`.
//!
//! Also writes a whole model in Balcony's published form.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use soft_burn::{SaveOptions, device};
use soft_core::Exits;
use soft_examples::hub::model_folder;
use soft_examples::model;
use soft_examples::outln;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Model folder; with the feature `hub` also `org/name[@revision]`
    #[arg(long)]
    model: PathBuf,
    /// Blocks to keep
    #[arg(long, required_unless_present = "nested_llama")]
    depth: Option<usize>,
    /// Keep the whole model and write it as Balcony's `nested_llama`, exits included
    #[arg(long, conflicts_with = "depth")]
    nested_llama: bool,
    /// New folder for the sub-model, or with --nested-llama for the whole model
    #[arg(long)]
    out: PathBuf,
}

pub fn run(args: Args) -> Result<()> {
    ensure!(
        !args.out.exists(),
        "{} is there already: name a new folder",
        args.out.display()
    );
    let exits = args.depth.map(|depth| Exits::new([depth])).transpose();
    let exits = exits.context("--depth")?;
    let folder = model_folder(&args.model)?;
    let model = model::load(&folder, &device("cpu")?)?;
    let depth = model.config().n_layers;
    let options = SaveOptions {
        companions: Some(&folder),
        nested_llama: args.nested_llama,
        ..SaveOptions::default()
    };
    let Some(exits) = exits else {
        model.save_pretrained(&args.out, &options)?;
        outln!("{depth} blocks and the exits: {}", args.out.display());
        return Ok(());
    };
    let kept = exits.last().depth();
    let part = model.extract(exits.last()).context("--depth")?;
    part.save_pretrained(&args.out, &options)?;
    let own = part.config().n_layers > kept;
    let own = if own { " and the exit's own" } else { "" };
    outln!("{kept} of {depth} blocks{own}: {}", args.out.display());
    Ok(())
}
