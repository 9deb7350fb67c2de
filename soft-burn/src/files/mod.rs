//! Files and folders: atomic writes and bounded reads, independent of models.

pub(crate) mod adapter_chain;
pub(crate) mod folder;
pub(crate) mod safetensors;

use std::path::PathBuf;

use crate::error::Error;

impl Error {
    /// For `map_err`: an I/O error with its path and action.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |reason| Self::Io {
            action,
            path,
            reason,
        }
    }

    /// For `map_err`: a JSON error with its path.
    pub(crate) fn json(path: impl Into<PathBuf>) -> impl FnOnce(serde_json::Error) -> Self {
        let path = path.into();
        move |reason| Self::Json { path, reason }
    }
}
