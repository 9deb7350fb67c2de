//! What can go wrong between a model's answers and a table.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Errors of this crate.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A file cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file of results that another process adds to.
    #[error("{} is in use: another process adds to it", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A file that is not what it should be.
    #[error("{}{}: expected {expected}, found {found}", path.display(), at_line(*line))]
    Content {
        /// The file.
        path: PathBuf,
        /// The line, from 1; none when the file is one piece.
        line: Option<usize>,
        /// What belongs there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A journal of other settings.
    #[error(
        "{}: begun with other settings: `{key}` was {was}, now it is {now}; give another file, or the same settings to go on",
        path.display()
    )]
    OtherSettings {
        /// The journal.
        path: PathBuf,
        /// The setting that differs.
        key: String,
        /// Its value in the journal.
        was: String,
        /// Its value now.
        now: String,
    },
    /// A setting that makes no sense.
    #[error("{setting}: expected {expected}, found {found}")]
    Setting {
        /// The setting.
        setting: &'static str,
        /// What would do.
        expected: &'static str,
        /// What was given.
        found: String,
    },
    /// A judge that gave no verdict.
    #[error("the judge gave no verdict: {reason}")]
    Judge {
        /// Why.
        reason: String,
    },
    /// Verdicts that are still missing.
    #[error(
        "{missing} verdicts are missing: {} lists them; fill in \"verdict\" (\"1\", \"2\" or \"tie\") and run again",
        path.display()
    )]
    MissingVerdicts {
        /// The file with the open comparisons.
        path: PathBuf,
        /// How many.
        missing: usize,
    },
    /// A figure that cannot be drawn.
    #[error("cannot draw the figure {figure}: {reason}")]
    Figure {
        /// The figure.
        figure: String,
        /// Why.
        reason: String,
    },
}

impl EvalError {
    pub(crate) fn io<'a>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> Self + use<'a> {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

fn at_line(line: Option<usize>) -> String {
    line.map_or(String::new(), |line| format!(", line {line}"))
}
