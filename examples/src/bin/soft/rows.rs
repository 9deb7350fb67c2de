//! Files of rows to train on or to score.

use std::path::PathBuf;

use anyhow::Result;
use soft_data::{Format, Record};

/// Which rows, and how they are batched.
#[derive(clap::Args, Debug)]
pub struct RowArgs {
    /// File of rows
    #[arg(long)]
    pub data: PathBuf,
    /// Layout of the rows: alpaca, triviaqa, or jsonl for prompts with responses, conversations or
    /// texts
    #[arg(long)]
    pub format: Format,
    /// Use the first N rows only
    #[arg(long)]
    pub limit: Option<usize>,
    /// Longest row in tokens; longer ones are cut on the right
    #[arg(long, default_value_t = 512)]
    pub max_len: usize,
    /// Rows per batch; in training, per micro-batch
    #[arg(long, default_value_t = 32)]
    pub batch: usize,
}

impl RowArgs {
    /// Reads the rows.
    pub fn read(&self) -> Result<Vec<Record>> {
        let mut records = self.format.read(&self.data)?;
        records.truncate(self.limit.unwrap_or(usize::MAX));
        Ok(records)
    }
}
