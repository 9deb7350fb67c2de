//! Errors about config.json that name the file.

use std::path::Path;

use crate::error::Error;

/// Creates config errors that name the file.
pub(crate) struct Refusal<'a> {
    pub path: &'a Path,
}

impl Refusal<'_> {
    pub fn because(
        &self,
        key: &'static str,
        found: impl ToString,
        expected: impl Into<String>,
    ) -> Error {
        Error::Config {
            path: self.path.to_owned(),
            key,
            found: found.to_string(),
            expected: expected.into(),
        }
    }
}
