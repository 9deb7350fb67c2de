//! A file of JSON lines that one process at a time appends to.
//!
//! Each line is written at once, so that a crash can only truncate the last line. The caller
//! decides whether the last line is such a part and removes it with [`JsonLines::truncate`].

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::EvalError;
use crate::files::{check_regular, read_bytes};

/// A file of JSON lines, locked while it is open.
#[derive(Debug)]
pub(crate) struct JsonLines {
    path: PathBuf,
    file: File,
}

impl JsonLines {
    /// Opens the file or creates it, and returns its content.
    ///
    /// # Errors
    /// If it is not a regular file, is open in another process, or cannot be read or written.
    pub fn open(path: &Path) -> Result<(Self, Vec<u8>), EvalError> {
        if path.try_exists().map_err(EvalError::io("read", path))? {
            check_regular(path)?;
        }
        let opened = OpenOptions::new().create(true).append(true).open(path);
        let file = opened.map_err(EvalError::io("write", path))?;
        let path = path.to_owned();
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(EvalError::InUse { path });
        }
        let bytes = read_bytes(&path)?;
        Ok((Self { path, file }, bytes))
    }

    /// Truncates the file to `length` bytes.
    pub fn truncate(&self, length: usize) -> Result<(), EvalError> {
        let cut = self.file.set_len(length as u64);
        cut.map_err(EvalError::io("write", &self.path))
    }

    /// Adds the line break that the last line lacks.
    pub fn end_line(&mut self) -> Result<(), EvalError> {
        let written = self.file.write_all(b"\n");
        written.map_err(EvalError::io("write", &self.path))
    }

    /// Adds a line.
    pub fn append(&mut self, line: &impl Serialize) -> Result<(), EvalError> {
        let mut text = serde_json::to_string(line).map_err(|error| EvalError::Content {
            path: self.path.clone(),
            line: None,
            expected: "a value that can be written as JSON",
            found: error.to_string(),
        })?;
        text.push('\n');
        let written = self.file.write_all(text.as_bytes());
        written.map_err(EvalError::io("write", &self.path))
    }
}
