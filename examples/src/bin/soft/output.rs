//! Output of an evaluation: a JSON file for `soft report`, and a journal to resume from.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use soft_eval::Journal;
use soft_eval::results::Evaluation;
use soft_examples::outln;

/// Where an evaluation is written.
#[derive(clap::Args, Debug, Clone)]
pub struct OutputArgs {
    /// Write the figures to this new JSON file, for `soft report`
    #[arg(long, help_heading = "Output")]
    pub json: Option<PathBuf>,
    /// Record results in this file as they come; the same command resumes from it
    #[arg(long, help_heading = "Output")]
    pub journal: Option<PathBuf>,
}

impl OutputArgs {
    /// Checks, before anything is computed, that the JSON file is new and can be written.
    pub fn check(&self) -> Result<()> {
        if let Some(path) = &self.json {
            ensure!(!path.exists(), "{} is there already", path.display());
            let name = path.file_name().context("--json names no file")?;
            let mut trial = name.to_owned();
            trial.push(".trial");
            let trial = path.with_file_name(trial);
            let written = std::fs::write(&trial, "").and_then(|()| std::fs::remove_file(&trial));
            written.with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// Opens the journal, if one is given. Subcommand, version and device must be those it was
    /// started with; the keys identify everything else.
    pub fn open_journal(&self, program: &str, device: &str) -> Result<Journal> {
        let Some(path) = &self.journal else {
            return Ok(Journal::unsaved());
        };
        let settings = serde_json::json!({
            "program": program,
            "version": env!("CARGO_PKG_VERSION"),
            "device": device,
        });
        Ok(Journal::open(path, &settings)?)
    }

    /// Writes the JSON file, if one is given.
    pub fn save(&self, evaluation: &Evaluation) -> Result<()> {
        if let Some(path) = &self.json {
            evaluation.save(path)?;
            outln!("figures: {}", path.display());
        }
        Ok(())
    }
}
