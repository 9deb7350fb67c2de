//! Result files of evaluations, with their provenance.
//!
//! A program writes one file per evaluation; a report is made of a folder of them.

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

/// The results of one evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// How it was made.
    pub provenance: Provenance,
    /// The results.
    pub findings: Vec<Finding>,
}

/// What is needed to reproduce an evaluation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The command line.
    pub command: String,
    /// The version of the program.
    pub version: String,
    /// Operating system, architecture and number of processors.
    pub machine: String,
    /// Seeds by name.
    pub seeds: Vec<(String, u64)>,
    /// Files of models and data.
    pub inputs: Vec<Input>,
    /// Wall time in seconds.
    pub seconds: f64,
}

/// An input file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Its path.
    pub path: PathBuf,
    /// Size in bytes.
    pub bytes: u64,
    /// CRC-32C of the content.
    pub crc32c: String,
}

/// A table of results.
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
    /// Agreement of exits with a full model, by position.
    Agreement(AgreementTable),
    /// Responses compared by a judge.
    Judged(JudgedTable),
    /// Agreement of a judge with people.
    JudgeQuality(JudgeQualityTable),
    /// Calibrated thresholds.
    Calibration(CalibrationTable),
    /// Speed of decoding modes.
    Speed(SpeedTable),
    /// Samples of answers.
    Samples(SampleTable),
}

impl Evaluation {
    /// Reads a file that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// If the file cannot be read or is not an evaluation.
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

    /// Writes the evaluation as JSON. An existing file is replaced atomically.
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

    /// Reads all `.json` files of a folder, ordered by name.
    ///
    /// # Errors
    /// If the folder has no such file, or one is not an evaluation.
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

/// Writes a file under another name, then renames it.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> Result<(), EvalError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = path.with_file_name(name);
    std::fs::write(&partial, content).map_err(EvalError::io("write", &partial))?;
    std::fs::rename(&partial, path).map_err(EvalError::io("write", path))
}
