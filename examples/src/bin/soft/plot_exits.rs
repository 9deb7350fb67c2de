//! `soft plot-exits`: the loss at every depth, one line per model, as SVG, from files of
//! `soft evaluate --json`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use soft_eval::report::figures::{Curve, Curves};
use soft_eval::results::{Evaluation, Finding};
use soft_examples::outln;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Files that `soft evaluate --json` wrote; NAME=FILE gives the model another name
    #[arg(required = true)]
    scores: Vec<String>,
    /// SVG file to write; an existing one is replaced
    #[arg(long)]
    out: PathBuf,
    /// Upper end of the loss axis in nats
    #[arg(long)]
    highest: Option<f64>,
}

pub fn run(args: Args) -> Result<()> {
    let curves = args.scores.iter().map(|scores| curve(scores));
    let figure = Curves {
        x: "exit: blocks run",
        y: "loss in nats per token",
        curves: &curves.collect::<Result<Vec<_>>>()?,
        highest: args.highest,
    };
    let text = figure.svg()?;
    fs::write(&args.out, text).with_context(|| format!("cannot write {}", args.out.display()))?;
    outln!("figure: {}", args.out.display());
    Ok(())
}

fn curve(scores: &str) -> Result<Curve> {
    let (name, path) = match scores.split_once('=') {
        Some((name, path)) => (Some(name), path),
        None => (None, scores),
    };
    let evaluation = Evaluation::load(path)?;
    let table = evaluation
        .findings
        .iter()
        .find_map(|finding| match finding {
            Finding::Exits(table) => Some(table),
            _ => None,
        });
    let table = table.with_context(|| format!("{path} has no losses by exit"))?;
    let mut curve = Curve {
        name: name.unwrap_or(&table.model).to_owned(),
        ..Curve::default()
    };
    for row in &table.rows {
        let loss = row.scores.loss;
        curve.points.push((row.scores.exit.depth() as f64, loss));
        let ends = row.loss.map_or((loss, loss), |ends| (ends.low, ends.high));
        curve.intervals.push(ends);
    }
    Ok(curve)
}
