//! Results of evaluations as files, each with what it is and how to reproduce it.
//!
//! Programs write one file per evaluation; a report is made of a folder of them. Knows figures and
//! names, no models.

mod cells;
mod tables;

use std::path::{Path, PathBuf};

use crate::EvalError;
use crate::files::read_text;
use serde::{Deserialize, Serialize};

pub use tables::{
    AgreementTable, AnswerDifference, AnswerRow, AnswerTable, CalibrationRow, CalibrationTable,
    DifferenceRow, DifferenceTable, ExitRow, ExitTable, JudgeQualityTable, JudgedRow, JudgedTable,
    Sample, SampleTable, SpeedTable,
};

/// One evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// How it came about.
    pub provenance: Provenance,
    /// The results.
    pub findings: Vec<Finding>,
}

/// How to get an evaluation again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The command line.
    pub command: String,
    /// Version of the program.
    pub version: String,
    /// System, architecture, processors.
    pub machine: String,
    /// Seeds, by what they are for.
    pub seeds: Vec<(String, u64)>,
    /// Models and data: path and fingerprint.
    pub inputs: Vec<Input>,
    /// Wall time in seconds.
    pub seconds: f64,
}

/// A file or folder that went in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Where it was.
    pub path: PathBuf,
    /// Size in bytes.
    pub bytes: u64,
    /// CRC-32C of the content.
    pub crc32c: String,
}

/// A table's worth of results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Finding {
    /// Loss and accuracy at every exit of a model.
    Exits(ExitTable),
    /// Answers to questions, by exit or decoding mode.
    Answers(AnswerTable),
    /// Two models on the same texts.
    Difference(DifferenceTable),
    /// Exits beside a full model, position by position.
    Agreement(AgreementTable),
    /// Responses compared by a judge.
    Judged(JudgedTable),
    /// A judge compared with people.
    JudgeQuality(JudgeQualityTable),
    /// Thresholds with a promise.
    Calibration(CalibrationTable),
    /// Ways of decoding.
    Speed(SpeedTable),
    /// Answers to read.
    Samples(SampleTable),
}

impl Evaluation {
    /// Reads a file that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// When it cannot be read or is none.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, EvalError> {
        let path = path.as_ref();
        let text = read_text(path)?;
        serde_json::from_str(&text).map_err(|error| EvalError::Content {
            path: path.to_owned(),
            line: None,
            expected: "an evaluation, {\"provenance\", \"findings\"}",
            found: error.to_string(),
        })
    }

    /// Writes the evaluation as JSON; a file that is there is replaced whole.
    ///
    /// # Errors
    /// I/O errors.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), EvalError> {
        let path = path.as_ref();
        let text = serde_json::to_string_pretty(self).map_err(|error| EvalError::Content {
            path: path.to_owned(),
            line: None,
            expected: "figures that can be written as JSON",
            found: error.to_string(),
        })?;
        write_whole(path, format!("{text}\n").as_bytes())
    }

    /// The evaluations in a folder, by file name: all files that end in `.json`.
    ///
    /// # Errors
    /// When the folder has none, or one is no evaluation.
    pub fn load_folder(folder: impl AsRef<Path>) -> Result<Vec<Self>, EvalError> {
        let folder = folder.as_ref();
        let entries = std::fs::read_dir(folder).map_err(EvalError::io("read", folder))?;
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        let paths = paths.collect::<Result<Vec<_>, _>>();
        let mut paths = paths.map_err(EvalError::io("read", folder))?;
        paths.retain(|path| path.extension().is_some_and(|end| end == "json"));
        paths.sort();
        if paths.is_empty() {
            return Err(EvalError::Content {
                path: folder.to_owned(),
                line: None,
                expected: "evaluations, files that end in .json",
                found: "none".to_owned(),
            });
        }
        paths.iter().map(Self::load).collect()
    }
}

/// Writes a file beside its name and renames it.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> Result<(), EvalError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = path.with_file_name(name);
    std::fs::write(&partial, content).map_err(EvalError::io("write", &partial))?;
    std::fs::rename(&partial, path).map_err(EvalError::io("write", path))
}
