//! Generates text at any depth of a model: one exit, exits per token, self-speculation, or
//! whichever is fastest on this machine. Streams the text, optionally colored by exit, and prints
//! the cost.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args as ClapArgs;
use serde_json::json;
use soft_burn::DecodingDefaults;
use soft_core::Decoder;
use soft_core::decode::{Statistics, Tuner};
use soft_data::StopStrings;
use soft_examples::decoding::{DecodingArgs, keep_measurements};
use soft_examples::device::PlaceArgs;
use soft_examples::hub::model_folder;
use soft_examples::model;
use soft_examples::prompts::{PromptArgs, Reader};
use soft_examples::statistics::print_statistics;
use soft_examples::statusln;
use soft_examples::tokens::TokenArgs;

use crate::printer::{Printer, Show, print};

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Model folder, or org/name[@revision] of a hub
    #[arg(long)]
    model: PathBuf,
    #[command(flatten)]
    source: PromptArgs,
    #[command(flatten)]
    decoding: DecodingArgs,
    /// Text that ends an answer; may be given several times
    #[arg(long)]
    stop: Vec<String>,
    /// Prompts decoded at a time
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Color every token by the depth of its exit: blue is shallow, red is deep
    #[arg(long, alias = "colour")]
    color: bool,
    /// One JSON object per answer, then one with the statistics, instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tokens: TokenArgs,
    #[command(flatten)]
    device: PlaceArgs,
}

pub fn run(args: Args) -> Result<()> {
    let args = &args;
    ensure!(args.batch > 0, "--batch is 0: expected at least 1");
    args.decoding.refuse_unused()?;
    let folder = model_folder(&args.model)?;
    let model = model::load(&folder, args.device.open()?)?;
    let config = model.config();
    let tokenizer = args.tokens.open(&folder, config.vocab)?;
    let trained = DecodingDefaults::load(&folder, config)?;
    let prompts = args.source.read(&Reader {
        folder: &folder,
        tokenizer: &tokenizer,
        context: config.max_positions,
    })?;
    if args.decoding.decides() {
        statusln!("exits by {}", args.decoding.rule(&trained)?);
    }
    let show = match prompts.len() {
        _ if args.json => Show::Json,
        1 => Show::PromptAndStream,
        _ => Show::Blocks,
    };
    let mut printer = Printer {
        tokenizer: &tokenizer,
        stops: StopStrings::new(args.stop.clone())?,
        colors: (args.color && !args.json).then_some(config.n_layers),
        show,
        answered: 0,
    };
    let mut statistics = Statistics::default();
    let mut tuner = None;
    for prompts in prompts.chunks(args.batch) {
        let mut settings = args.decoding.settings(&trained, &tokenizer)?;
        keep_measurements(&mut settings, &mut tuner);
        let mut decoder = Decoder::new(&model, prompts, settings)?;
        printer.answer(prompts, &mut decoder)?;
        statistics.add(decoder.statistics());
        tuner = decoder.into_tuner();
    }
    if args.json {
        return print(&format!("{}\n", json!({ "statistics": statistics })));
    }
    print_statistics(&statistics, config.n_layers);
    for (depth, rate) in tuner.iter().flat_map(Tuner::acceptance) {
        let rate = rate.map_or("not tried".to_owned(), |rate| {
            format!("{:.0} %", 100.0 * rate)
        });
        statusln!("drafts of exit {depth} accepted of late: {rate}");
    }
    Ok(())
}
