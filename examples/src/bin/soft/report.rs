//! `soft report`: a report as HTML, Markdown and JSON, with every figure as SVG and PNG.
//!
//! The input is a folder of files that `soft evaluate`, `compare`, `calibrate` and `sweep` write
//! with `--json`.

use std::path::PathBuf;

use anyhow::Result;
use soft_eval::report::write_report;
use soft_eval::results::Evaluation;
use soft_examples::outln;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Folder with the JSON files of evaluations
    #[arg(long)]
    results: PathBuf,
    /// Folder for index.html, report.md, report.json and figures/; existing ones are replaced
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
