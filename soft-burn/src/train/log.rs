//! The log of a run: one JSON object per line.
//!
//! Lines are only appended. A line that a crash cut short is ignored. Resuming from a checkpoint
//! removes the lines of later steps, which are repeated.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::files::folder::read_text;
use crate::train::trainer::{ExitLoss, StepReport};

/// One line of `log.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLine {
    /// An optimizer step.
    Train(StepReport),
    /// Loss at every exit after a step.
    Validation {
        /// The step after which it was measured; 0 means before training.
        step: u64,
        /// Mean loss per exit.
        exits: Vec<ExitLoss>,
    },
}

impl LogLine {
    fn step(&self) -> u64 {
        match self {
            Self::Train(report) => report.step,
            Self::Validation { step, .. } => *step,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Creates an empty log.
    pub fn create(path: &Path) -> Result<(), Error> {
        File::create(path)
            .map(drop)
            .map_err(Error::io("create", path))
    }

    /// Opens the log at `path` to append to it.
    pub fn open(path: PathBuf) -> Result<Self, Error> {
        let file = OpenOptions::new().append(true).open(&path);
        Ok(Self {
            file: file.map_err(Error::io("write", &path))?,
            path,
        })
    }

    /// The complete lines, as text and parsed.
    pub fn read(path: &Path) -> Result<Vec<(String, LogLine)>, Error> {
        let text = read_text(path)?;
        let lines = text.split_inclusive('\n');
        let whole = lines.filter(|line| line.ends_with('\n'));
        let read = |line: &str| Ok((line.to_owned(), serde_json::from_str(line)?));
        let lines = whole.map(|line| read(line).map_err(Error::json(path)));
        lines.collect()
    }

    /// Opens the log, truncated to the state after step `steps_done`, and returns its lines.
    pub fn rewind(path: PathBuf, steps_done: u64) -> Result<(Self, Vec<LogLine>), Error> {
        let mut lines = Self::read(&path)?;
        lines.retain(|(_, line)| line.step() <= steps_done);
        let (kept, lines): (String, Vec<_>) = lines.into_iter().unzip();
        let partial = path.with_extension("partial");
        fs::write(&partial, kept).map_err(Error::io("write", &partial))?;
        fs::rename(&partial, &path).map_err(Error::io("write", &path))?;
        Ok((Self::open(path)?, lines))
    }

    /// Appends `line` in a single write.
    pub fn write(&mut self, line: &LogLine) -> Result<(), Error> {
        let mut text = serde_json::to_string(line).map_err(Error::json(&self.path))?;
        text.push('\n');
        self.file
            .write_all(text.as_bytes())
            .map_err(Error::io("write", &self.path))
    }

    /// Flushes the log to disk.
    pub fn sync(&self) -> Result<(), Error> {
        self.file
            .sync_data()
            .map_err(Error::io("write", &self.path))
    }
}
