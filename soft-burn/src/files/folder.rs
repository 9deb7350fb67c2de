//! Folders that appear whole or not at all.
//!
//! A new folder is filled under another name beside its final one and renamed at the end, so
//! that neither a crash nor a full disk leaves half a checkpoint under a name someone trusts.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::Error;

/// Makes `path`, filled by `fill`, which is given the folder to write into.
///
/// # Errors
/// [`Error::OutputExists`] when `path` is there already; what `fill` returns; I/O errors. On any
/// of them nothing is left behind.
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
    // Held while the folder is filled, so that no other process takes it for left over.
    let lock = Lock::take(&hidden_name(path, LOCK), path)?;
    // Another process may have been faster.
    if let Err(error) = absent() {
        lock.remove();
        return Err(error);
    }
    if exists(&partial)? {
        // Left by a run that was killed while writing.
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
        // The first error is the one to report; a leftover is removed by the next attempt.
        let _ = fs::remove_dir_all(&partial);
    }
    lock.remove();
    filled
}

const PARTIAL: &str = "partial";
const REMOVED: &str = "removed";
const LOCK: &str = "lock";

/// `runs/a` is filled as `runs/.a.partial`.
fn hidden_name(path: &Path, ending: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{ending}"))
}

/// The name of the file or folder that a hidden entry of this module stands beside; none for
/// entries of others.
pub(crate) fn hidden_for(entry: &str) -> Option<&str> {
    let (name, ending) = entry.strip_prefix('.')?.rsplit_once('.')?;
    [PARTIAL, REMOVED, LOCK].contains(&ending).then_some(name)
}

/// A file that one process holds at a time, until it is dropped or the process ends, however it
/// ends.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    /// None where the file system has no locks: nothing is protected there.
    _file: Option<File>,
}

impl Lock {
    /// Takes the lock `path`, which protects `what`.
    ///
    /// # Errors
    /// [`Error::InUse`] when another process holds it; I/O errors.
    pub fn take(path: &Path, what: &Path) -> Result<Self, Error> {
        if exists(path)? {
            // A pipe would wait.
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

    /// Gives the lock back and removes its file.
    fn remove(self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Names in a folder survive a power cut only once the folder itself is written.
fn sync(folder: &Path) -> Result<(), Error> {
    if cfg!(unix) {
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(Error::io("write", folder))?;
    }
    Ok(())
}

/// Writes `value` as indented JSON.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let mut text = serde_json::to_string_pretty(value).map_err(Error::json(path))?;
    text.push('\n');
    write_text(path, &text)
}

/// Writes a text that survives a power cut.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<(), Error> {
    let written = fs::write(path, text).and_then(|()| File::open(path)?.sync_all());
    written.map_err(Error::io("write", path))
}

/// Writes a file that may be there already: it is replaced whole or left as it was.
pub(crate) fn replace_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let partial = path.with_extension("partial");
    write_json(&partial, value)?;
    fs::rename(&partial, path).map_err(Error::io("rename", &partial))
}

/// Removes a folder under another name, so that no half of it is ever seen under its own.
pub(crate) fn remove_folder(path: &Path) -> Result<(), Error> {
    let doomed = hidden_name(path, REMOVED);
    let removed = fs::rename(path, &doomed).and_then(|()| fs::remove_dir_all(&doomed));
    removed.map_err(Error::io("remove", path))
}

/// Opens a file to read. Only regular ones: a pipe may never end, a device has no size.
pub(crate) fn open_regular(path: &Path) -> Result<File, Error> {
    // Before it is opened: a pipe without a writer would wait.
    let metadata = fs::metadata(path).map_err(Error::io("read", path))?;
    if !metadata.is_file() {
        let cause = io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
        return Err(Error::io("read", path)(cause));
    }
    File::open(path).map_err(Error::io("read", path))
}

/// Bytes of the largest text that is read: far beyond any configuration or log.
const MAX_TEXT: u64 = 1 << 30;

/// The text of a file.
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

/// Whether something is there. A loop of links is an error, not nothing.
pub(crate) fn exists(path: &Path) -> Result<bool, Error> {
    match path.try_exists() {
        // Below a file there is nothing.
        Err(cause) if cause.kind() == io::ErrorKind::NotADirectory => Ok(false),
        there => there.map_err(Error::io("read", path)),
    }
}

/// Reads JSON into one of our own structs.
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

    /// A pipe would wait for one who reads it.
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
