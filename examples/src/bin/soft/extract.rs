//! `soft extract`: the first n blocks of a model as an ordinary Hugging Face folder, which
//! transformers, candle and llama.cpp load.
//!
//! For a model trained by SoFT, this is the sub-model, ready to serve. For any other model, it is
//! the starting point of the paper's baseline "Extracted Fine-Tuning":
//! `soft finetune --method sft`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use soft_burn::{SaveOptions, device};
use soft_core::Exits;
use soft_examples::hub::model_folder;
use soft_examples::model;
use soft_examples::outln;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Model folder, or org/name[@revision] on a hub
    #[arg(long)]
    model: PathBuf,
    /// Blocks to keep
    #[arg(long)]
    depth: usize,
    /// New folder for the sub-model
    #[arg(long)]
    out: PathBuf,
}

pub fn run(args: Args) -> Result<()> {
    ensure!(
        !args.out.exists(),
        "{} is there already: name a new folder",
        args.out.display()
    );
    let exit = Exits::new([args.depth]).context("--depth")?.last();
    let folder = model_folder(&args.model)?;
    let model = model::load(&folder, &device("cpu")?)?;
    let depth = model.config().n_layers;
    let part = model.extract(exit).context("--depth")?;
    let options = SaveOptions {
        companions: Some(&folder),
        ..SaveOptions::default()
    };
    part.save_pretrained(&args.out, &options)?;
    let blocks = part.config().n_layers;
    let own = blocks - args.depth;
    let own = if own > 0 { " and the exit's own" } else { "" };
    outln!(
        "{} of {depth} blocks{own}: {}",
        args.depth,
        args.out.display()
    );
    Ok(())
}
