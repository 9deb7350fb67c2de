//! Errors of this crate.

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
        /// The attempted action, such as "read".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file of results is open in another process.
    #[error("{} is in use: another process adds to it", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A file has unexpected content.
    #[error("{}{}: expected {expected}, found {found}", path.display(), at_line(*line))]
    Content {
        /// The file.
        path: PathBuf,
        /// The line, from 1, in files of lines.
        line: Option<usize>,
        /// The expected content.
        expected: &'static str,
        /// The content found.
        found: String,
    },
    /// A journal was started with other settings.
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
    /// A setting is invalid.
    #[error("{setting}: expected {expected}, found {found}")]
    Setting {
        /// The setting.
        setting: &'static str,
        /// The valid values.
        expected: &'static str,
        /// The given value.
        found: String,
    },
    /// A judge gave no verdict.
    #[error("the judge gave no verdict: {reason}")]
    Judge {
        /// Why.
        reason: String,
    },
    /// Verdicts are missing.
    #[error(
        "{missing} verdicts are missing: {} lists them; fill in \"verdict\" (\"1\", \"2\" or \"tie\") and run again",
        path.display()
    )]
    MissingVerdicts {
        /// The file with the open comparisons.
        path: PathBuf,
        /// Number of missing verdicts.
        missing: usize,
    },
    /// A figure cannot be drawn.
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
