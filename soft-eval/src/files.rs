//! Files of results: read whole, appended to by one process at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

use crate::EvalError;

/// The bytes of a regular file.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>, EvalError> {
    check_regular(path)?;
    fs::read(path).map_err(EvalError::io("read", path))
}

/// Refuses what is no regular file, and may never end, as a pipe.
fn check_regular(path: &Path) -> Result<(), EvalError> {
    let metadata = fs::metadata(path).map_err(EvalError::io("read", path))?;
    match metadata.is_file() {
        true => Ok(()),
        false => {
            let cause = io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
            Err(EvalError::io("read", path)(cause))
        }
    }
}

/// The text of a regular file.
pub(crate) fn read_text(path: &Path) -> Result<String, EvalError> {
    String::from_utf8(read_bytes(path)?).map_err(|error| EvalError::Content {
        path: path.to_owned(),
        line: None,
        expected: "UTF-8",
        found: error.to_string(),
    })
}

/// Opens a file to append to it, which no other process may do as long as it is open, and its bytes; one that is not there is
/// made.
pub(crate) fn open_to_append(path: &Path) -> Result<(File, Vec<u8>), EvalError> {
    let is_there = path.try_exists().map_err(EvalError::io("read", path))?;
    if is_there {
        check_regular(path)?;
    }
    let opened = OpenOptions::new().create(true).append(true).open(path);
    let file = opened.map_err(EvalError::io("write", path))?;
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        return Err(EvalError::InUse {
            path: path.to_owned(),
        });
    }
    Ok((file, read_bytes(path)?))
}
