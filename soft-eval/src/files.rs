//! Regular files, read whole.

use std::fs;
use std::io;
use std::path::Path;

use crate::EvalError;

pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>, EvalError> {
    check_regular(path)?;
    fs::read(path).map_err(EvalError::io("read", path))
}

/// Refuses a path that is not a regular file, such as a pipe, whose content may never end.
pub(crate) fn check_regular(path: &Path) -> Result<(), EvalError> {
    let metadata = fs::metadata(path).map_err(EvalError::io("read", path))?;
    if metadata.is_file() {
        Ok(())
    } else {
        let cause = io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
        Err(EvalError::io("read", path)(cause))
    }
}

pub(crate) fn read_text(path: &Path) -> Result<String, EvalError> {
    String::from_utf8(read_bytes(path)?).map_err(|error| EvalError::Content {
        path: path.to_owned(),
        line: None,
        expected: "UTF-8",
        found: error.to_string(),
    })
}
