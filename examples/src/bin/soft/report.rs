//! Makes a report of a folder of evaluations: one HTML file, the same as Markdown and JSON, every
//! figure as SVG and PNG.
//!
//! The evaluations are what `soft evaluate`, `soft compare`, `soft calibrate` and `soft sweep`
//! write with `--json`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args as ClapArgs;
use soft_eval::report::write_report;
use soft_eval::results::Evaluation;
use soft_examples::outln;

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Folder with the files that evaluations wrote
    #[arg(long)]
    results: PathBuf,
    /// Folder to write index.html, report.md, report.json and figures/ into; those that are there
    /// are replaced
    #[arg(long)]
    out: PathBuf,
    /// Title
    #[arg(long, default_value = "Sub-models compared")]
    title: String,
}

pub fn run(args: Args) -> Result<()> {
    let evaluations = Evaluation::load_folder(&args.results)?;
    write_report(&args.out, &args.title, &evaluations)?;
    outln!("report: {}", args.out.join("index.html").display());
    Ok(())
}
