//! The cache folder, shared with Python's huggingface_hub and in its layout: contents in `blobs` by
//! ETag, a folder of links per commit in `snapshots`, the commits of branches and tags in `refs`.
//!
//! Files are moved to their final name by a rename, so that they are never incomplete.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::files::{CONFIG, INDEX, SINGLE, shards};
use super::name::is_commit;
use super::{HubError, HubName, Missing};

pub(super) struct RepoCache {
    folder: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    pub(super) fn new(cache: &Path, name: &HubName) -> Self {
        let own = format!("models--{}", name.repo().replace('/', "--"));
        Self {
            folder: cache.join(&own),
            locks: cache.join(".locks").join(&own),
        }
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.folder.join("refs").join(revision)
    }

    fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// A partial download. Not named `{etag}.incomplete`: older releases of huggingface_hub leave
    /// files of that name with holes, since they write in parallel.
    pub(super) fn incomplete(&self, etag: &str) -> PathBuf {
        self.blob(&format!("{etag}.soft.incomplete"))
    }

    /// A unique name for a file that is renamed later.
    fn own(&self, name: &str) -> PathBuf {
        static WRITERS: AtomicUsize = AtomicUsize::new(0);
        let (process, writer) = (std::process::id(), WRITERS.fetch_add(1, Ordering::Relaxed));
        self.blob(&format!("{name}.{process}-{writer}.new"))
    }

    /// The commit and the folder of a revision, if the model is complete.
    pub(super) fn complete(&self, name: &HubName) -> Result<(String, PathBuf), Missing> {
        let commit = match name.is_commit() {
            true => name.revision().to_owned(),
            false => {
                let expected = self.reference(name.revision());
                let commit = fs::read_to_string(&expected).unwrap_or_default();
                let commit = commit.trim().to_owned();
                // The commit becomes part of a path.
                if is_commit(&commit) {
                    commit
                } else {
                    return Err(Missing::Revision { expected });
                }
            }
        };
        let folder = self.snapshot(&commit);
        if !folder.is_dir() {
            return Err(Missing::Revision { expected: folder });
        }
        match missing(&folder) {
            files if files.is_empty() => Ok((commit, folder)),
            files => Err(Missing::Files { folder, files }),
        }
    }

    /// Records the commit of a branch or tag. Must be called last, when the commit is complete.
    pub(super) fn remember(&self, name: &HubName, commit: &str) -> Result<(), HubError> {
        let path = self.reference(name.revision());
        if name.is_commit() || fs::read_to_string(&path).is_ok_and(|known| known == commit) {
            return Ok(());
        }
        make_parent(&path)?;
        make_parent(&self.blob(commit))?;
        // Not in `refs`, where every file counts as a branch.
        let new = self.own(commit);
        fs::write(&new, commit).map_err(HubError::io("write", &new))?;
        fs::rename(&new, &path).map_err(HubError::io("rename to", &path))
    }

    /// Locks a blob against other processes, including Python's, until the file is dropped.
    pub(super) fn lock(&self, etag: &str) -> Result<File, HubError> {
        make_parent(&self.blob(etag))?;
        let path = self.locks.join(format!("{etag}.lock"));
        make_parent(&path)?;
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(HubError::io("open", &path))?;
        // Some network file systems have no locks. Two processes then write the same bytes at the
        // same offsets, which only costs time.
        file.lock().ok();
        Ok(file)
    }

    pub(super) fn has_blob(&self, etag: &str, size: u64) -> bool {
        fs::metadata(self.blob(etag)).is_ok_and(|data| data.is_file() && data.len() == size)
    }

    /// Renames a complete download to its blob.
    pub(super) fn finish(&self, etag: &str) -> Result<(), HubError> {
        let blob = self.blob(etag);
        let renamed = fs::rename(self.incomplete(etag), &blob);
        renamed.map_err(HubError::io("rename to", &blob))
    }

    /// Links a blob into a snapshot.
    pub(super) fn link(&self, etag: &str, commit: &str, file: &str) -> Result<(), HubError> {
        let path = self.snapshot(commit).join(file);
        make_parent(&path)?;
        let new = self.own(etag);
        // May be left by a killed process with the same id.
        fs::remove_file(&new).ok();
        // From the link to the folder of the model: the folders within the commit, the commit,
        // `snapshots`.
        let up = "../".repeat(2 + file.matches('/').count());
        if symlink(Path::new(&format!("{up}blobs/{etag}")), &new).is_err() {
            // The file system or the user cannot create links.
            fs::copy(self.blob(etag), &new).map_err(HubError::io("write", &new))?;
        }
        // Also replaces a dangling link.
        fs::rename(&new, &path).map_err(HubError::io("rename to", &path))
    }
}

/// The files a snapshot lacks to be a complete model.
fn missing(folder: &Path) -> Vec<String> {
    let there = |file: &str| folder.join(file).is_file();
    let mut files = vec![CONFIG.to_owned()];
    if !there(SINGLE) && there(INDEX) {
        let index = fs::read_to_string(folder.join(INDEX)).ok();
        match index.and_then(|index| shards(&index)) {
            Some(shards) => files.extend(shards),
            None => return vec![format!("a readable {INDEX}")],
        }
    } else {
        files.push(SINGLE.to_owned());
    }
    files.retain(|file| !there(file));
    files
}

fn make_parent(path: &Path) -> Result<(), HubError> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(HubError::io("create", folder))
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_target: &Path, _link: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}
