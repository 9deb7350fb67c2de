//! The log of a run: one JSON object per line.
//!
//! Lines are only appended. A line that a crash cut short is ignored, and lines after the
//! checkpoint that a run is resumed from are cut off, since those steps are taken again.

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
    /// Loss at every exit after some step.
    Validation {
        /// The step after which it was measured; 0 is before training.
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

/// An open log.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Makes an empty log.
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

    /// The lines that are whole, as they are in the file and as what they say.
    pub fn read(path: &Path) -> Result<Vec<(String, LogLine)>, Error> {
        let text = read_text(path)?;
        let lines = text.split_inclusive('\n');
        let whole = lines.filter(|line| line.ends_with('\n'));
        let read = |line: &str| Ok((line.to_owned(), serde_json::from_str(line)?));
        let lines = whole.map(|line| read(line).map_err(Error::json(path)));
        lines.collect()
    }

    /// Opens the log as it was after step `steps_done`, with the lines that stay.
    pub fn rewind(path: PathBuf, steps_done: u64) -> Result<(Self, Vec<LogLine>), Error> {
        let mut lines = Self::read(&path)?;
        lines.retain(|(_, line)| line.step() <= steps_done);
        let (kept, lines): (String, Vec<_>) = lines.into_iter().unzip();
        let partial = path.with_extension("partial");
        fs::write(&partial, kept).map_err(Error::io("write", &partial))?;
        fs::rename(&partial, &path).map_err(Error::io("write", &path))?;
        Ok((Self::open(path)?, lines))
    }

    /// Appends `line`, whole and at once.
    pub fn write(&mut self, line: &LogLine) -> Result<(), Error> {
        let mut text = serde_json::to_string(line).map_err(Error::json(&self.path))?;
        text.push('\n');
        self.file
            .write_all(text.as_bytes())
            .map_err(Error::io("write", &self.path))
    }

    /// Makes what was written survive a power cut.
    pub fn sync(&self) -> Result<(), Error> {
        self.file
            .sync_data()
            .map_err(Error::io("write", &self.path))
    }
}
