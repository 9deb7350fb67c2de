//! The exit probes stored with a checkpoint: `exit_probes.json`.
//!
//! `soft calibrate` fits them. They belong to the weights they were fitted on, and are not copied
//! to a model trained from this one. transformers ignores the file.

use std::path::Path;

use soft_core::policy::ExitProbes;

use crate::error::Error;
use crate::files::folder::{exists, read_json, replace_json};

pub(crate) const EXIT_PROBES_FILE: &str = "exit_probes.json";

/// The exit probes of a model folder; `None` when it has none.
///
/// # Errors
/// When the file is malformed.
pub fn exit_probes(folder: impl AsRef<Path>) -> Result<Option<ExitProbes>, Error> {
    let path = folder.as_ref().join(EXIT_PROBES_FILE);
    if exists(&path)? {
        read_json(&path).map(Some)
    } else {
        Ok(None)
    }
}

/// Writes the exit probes of a model folder, replacing existing ones.
///
/// # Errors
/// I/O errors.
pub fn save_exit_probes(folder: impl AsRef<Path>, probes: &ExitProbes) -> Result<(), Error> {
    replace_json(&folder.as_ref().join(EXIT_PROBES_FILE), probes)
}
