//! Atomic creation and replacement of folders and files.
//!
//! A new folder is filled under a temporary name and then renamed, so that a crash or a full disk
//! never leaves an incomplete checkpoint under its final name.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::Error;

/// Creates `path`. `fill` writes the content into the temporary folder it is given.
///
/// # Errors
/// [`Error::OutputExists`] when `path` exists; errors of `fill`; I/O errors. The temporary folder
/// is removed on failure.
pub(crate) fn new_folder(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<(), Error> {
    let absent = || {
        if exists(path)? {
            Err(Error::OutputExists {
                path: path.to_owned(),
            })
        } else {
            Ok(())
        }
    };
    absent()?;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    }
    let partial = hidden_name(path, PARTIAL);
    // Held while the folder is filled, so that no other process removes it as a leftover.
    let lock = Lock::take(&hidden_name(path, LOCK), path)?;
    // Another process may have created it in the meantime.
    if let Err(error) = absent() {
        lock.remove();
        return Err(error);
    }
    if exists(&partial)? {
        // Left by a process that was killed while writing.
        fs::remove_dir_all(&partial).map_err(Error::io("remove", &partial))?;
    }
    fs::create_dir_all(&partial).map_err(Error::io("create", &partial))?;
    let filled = fill(&partial).and_then(|()| {
        sync(&partial)?;
        fs::rename(&partial, path).map_err(Error::io("create", path))?;
        path.parent()
            .filter(|parent| parent.exists())
            .map_or(Ok(()), sync)
    });
    if filled.is_err() {
        // Report the first error; the next attempt removes what is left.
        let _ = fs::remove_dir_all(&partial);
    }
    lock.remove();
    filled
}

const PARTIAL: &str = "partial";
const REMOVED: &str = "removed";
const LOCK: &str = "lock";

/// `runs/a` with the ending `partial` becomes `runs/.a.partial`.
fn hidden_name(path: &Path, ending: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{ending}"))
}

/// The name that a hidden entry of this module belongs to; `None` for other entries.
pub(crate) fn hidden_for(entry: &str) -> Option<&str> {
    let (name, ending) = entry.strip_prefix('.')?.rsplit_once('.')?;
    [PARTIAL, REMOVED, LOCK].contains(&ending).then_some(name)
}

/// A lock file, held by one process until the lock is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    /// `None` on file systems without locks, where nothing is protected.
    _file: Option<File>,
}

impl Lock {
    /// Takes the lock `path`, which protects `what`.
    ///
    /// # Errors
    /// [`Error::InUse`] when another process holds it; I/O errors.
    pub fn take(path: &Path, what: &Path) -> Result<Self, Error> {
        if exists(path)? {
            // Opening a pipe would block.
            open_regular(path)?;
        }
        let opened = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path);
        let file = opened.map_err(Error::io("write", path))?;
        let locked = match file.try_lock() {
            Ok(()) => Some(file),
            Err(TryLockError::WouldBlock) => {
                return Err(Error::InUse {
                    path: what.to_owned(),
                });
            }
            Err(TryLockError::Error(_)) => None,
        };
        Ok(Self {
            path: path.to_owned(),
            _file: locked,
        })
    }

    fn remove(self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Flushes a folder. Without it, new names may be lost in a power failure.
fn sync(folder: &Path) -> Result<(), Error> {
    if cfg!(unix) {
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(Error::io("write", folder))?;
    }
    Ok(())
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let mut text = serde_json::to_string_pretty(value).map_err(Error::json(path))?;
    text.push('\n');
    write_text(path, &text)
}

/// Writes a text file and flushes it to disk.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<(), Error> {
    let written = fs::write(path, text).and_then(|()| File::open(path)?.sync_all());
    written.map_err(Error::io("write", path))
}

/// Writes a JSON file, replacing an existing one atomically.
pub(crate) fn replace_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let partial = path.with_extension("partial");
    write_json(&partial, value)?;
    fs::rename(&partial, path).map_err(Error::io("rename", &partial))
}

/// Renames a folder before removing it, so that its name never refers to a partly removed one.
pub(crate) fn remove_folder(path: &Path) -> Result<(), Error> {
    let doomed = hidden_name(path, REMOVED);
    let removed = fs::rename(path, &doomed).and_then(|()| fs::remove_dir_all(&doomed));
    removed.map_err(Error::io("remove", path))
}

/// Opens a regular file for reading. A pipe may never end, and a device has no size.
pub(crate) fn open_regular(path: &Path) -> Result<File, Error> {
    // Checked before opening, which would block on a pipe without a writer.
    let metadata = fs::metadata(path).map_err(Error::io("read", path))?;
    if !metadata.is_file() {
        let cause = io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
        return Err(Error::io("read", path)(cause));
    }
    File::open(path).map_err(Error::io("read", path))
}

/// Maximum size of a text file in bytes, far above any configuration or log.
const MAX_TEXT: u64 = 1 << 30;

/// Reads a text file of at most `MAX_TEXT` bytes.
pub(crate) fn read_text(path: &Path) -> Result<String, Error> {
    let mut text = String::new();
    let mut file = open_regular(path)?.take(MAX_TEXT + 1);
    file.read_to_string(&mut text)
        .map_err(Error::io("read", path))?;
    if text.len() as u64 > MAX_TEXT {
        let cause = io::Error::new(io::ErrorKind::InvalidInput, "it has more than 1 GiB");
        return Err(Error::io("read", path)(cause));
    }
    Ok(text)
}

/// Whether `path` exists. A loop of symbolic links is an error.
pub(crate) fn exists(path: &Path) -> Result<bool, Error> {
    match path.try_exists() {
        // Part of the path is a regular file.
        Err(cause) if cause.kind() == io::ErrorKind::NotADirectory => Ok(false),
        there => there.map_err(Error::io("read", path)),
    }
}

pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = read_text(path)?;
    serde_json::from_str(&text).map_err(Error::json(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_fill_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("model");
        let result = new_folder(&path, |partial| {
            fs::write(partial.join("half"), "x").unwrap();
            Err(Error::NothingToLearn { step: 1 })
        });
        assert!(result.is_err());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_another_fills_is_left_to_it() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("model");
        new_folder(&path, |partial| {
            fs::write(partial.join("half"), "x").unwrap();
            let error = new_folder(&path, |_| Ok(())).unwrap_err();
            assert!(matches!(error, Error::InUse { .. }), "{error}");
            assert!(partial.join("half").exists());
            Ok(())
        })
        .unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    /// Opening a pipe for writing would block until it has a reader.
    #[cfg(unix)]
    #[test]
    fn a_lock_is_a_regular_file() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("run.lock");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let error = Lock::take(&path, root.path()).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }

    #[test]
    fn hidden_entries_of_others_are_told_from_ours() {
        assert_eq!(hidden_for(".step-000003.partial"), Some("step-000003"));
        for other in [".DS_Store", ".nfs0001", "step.partial", ".mine", ".a.txt"] {
            assert_eq!(hidden_for(other), None, "{other}");
        }
    }

    #[test]
    fn an_existing_folder_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("precious"), "x").unwrap();
        let error = new_folder(root.path(), |_| Ok(())).unwrap_err();
        assert!(matches!(error, Error::OutputExists { .. }));
        assert!(root.path().join("precious").exists());
    }
}
