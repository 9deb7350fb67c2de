//! Downloads the files of a commit into the cache.
//!
//! A file is downloaded under a temporary name and renamed when complete. An interrupted download
//! leaves no snapshot that looks complete, and the next one resumes it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use super::answer::{FileInfo, Listing};
use super::cache::RepoCache;
use super::files::{INDEX, select, shards};
use super::remote::Remote;
use super::{HubError, HubFolder, HubName};

/// Progress of a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubProgress<'a> {
    /// Name of the file in the repository.
    pub file: &'a str,
    /// Bytes present.
    pub bytes: u64,
    /// Size of the file, in bytes.
    pub total: u64,
}

pub(super) struct Fetching<'a> {
    remote: &'a Remote,
    cache: RepoCache,
    name: &'a HubName,
    listing: Listing,
    progress: &'a mut dyn FnMut(HubProgress<'_>),
    fetched: Vec<String>,
}

impl<'a> Fetching<'a> {
    pub(super) fn new(
        remote: &'a Remote,
        cache: RepoCache,
        name: &'a HubName,
        listing: Listing,
        progress: &'a mut dyn FnMut(HubProgress<'_>),
    ) -> Self {
        Self {
            remote,
            cache,
            name,
            listing,
            progress,
            fetched: Vec::new(),
        }
    }

    /// Downloads what the cache lacks.
    pub(super) fn all(mut self) -> Result<HubFolder, HubError> {
        let selection = select(self.name, &self.listing.files)?;
        for file in selection.files {
            self.file(file)?;
        }
        if selection.weights == INDEX {
            self.file(INDEX)?;
            for shard in self.shards()? {
                self.file(&shard)?;
            }
        } else {
            self.file(selection.weights)?;
        }
        let commit = self.listing.commit;
        self.cache.remember(self.name, &commit)?;
        Ok(HubFolder {
            path: self.cache.snapshot(&commit),
            commit,
            fetched: self.fetched,
            unreachable: None,
        })
    }

    /// The weight files named by the index, which is in the snapshot.
    fn shards(&self) -> Result<Vec<String>, HubError> {
        let path = self.cache.snapshot(&self.listing.commit).join(INDEX);
        let index = fs::read_to_string(&path).map_err(HubError::io("read", &path))?;
        let shards = shards(&index).ok_or_else(|| HubError::Answer {
            url: format!("{}, {INDEX}", self.name),
            expected: "a `weight_map` to files named *.safetensors",
            found: "none such".to_owned(),
        })?;
        match shards
            .iter()
            .find(|shard| !self.listing.files.contains(shard))
        {
            None => Ok(shards),
            Some(shard) => Err(HubError::NoSuchFile {
                name: self.name.clone(),
                expected: format!("{shard}, which {INDEX} names"),
                files: self.listing.files.len(),
            }),
        }
    }

    /// Adds a file to the snapshot, unless it is present.
    fn file(&mut self, file: &str) -> Result<(), HubError> {
        let commit = &self.listing.commit;
        if self.cache.snapshot(commit).join(file).exists() {
            return Ok(());
        }
        let info = self.remote.file_info(self.name, commit, file)?;
        let _lock = self.cache.lock(&info.etag)?;
        // Another commit may share the content, or another process may have downloaded it.
        if !self.cache.has_blob(&info.etag, info.size) {
            self.blob(file, &info)?;
            self.fetched.push(file.to_owned());
        }
        self.cache.link(&info.etag, &self.listing.commit, file)
    }

    /// Downloads a blob or resumes an interrupted download.
    fn blob(&mut self, file: &str, info: &FileInfo) -> Result<(), HubError> {
        let mut partial = Partial::open(self.cache.incomplete(&info.etag))?;
        if partial.bytes > info.size {
            // More bytes than expected: which of them belong to the file is unknown.
            partial.keep(0)?;
        }
        let mut cause = String::new();
        if partial.bytes < info.size {
            cause = self.transfer(file, info.size, &mut partial)?;
        }
        let found = partial.bytes;
        if found != info.size {
            return Err(HubError::Cut {
                name: self.name.clone(),
                file: file.to_owned(),
                expected: info.size,
                found,
                cause,
            });
        }
        partial.close()?;
        self.cache.finish(&info.etag)
    }

    /// Appends received bytes and returns why the transfer ended.
    fn transfer(
        &mut self,
        file: &str,
        total: u64,
        partial: &mut Partial,
    ) -> Result<String, HubError> {
        let (remote, commit) = (self.remote, &self.listing.commit);
        let (start, body) = remote.bytes(self.name, commit, file, partial.bytes)?;
        partial.keep(start)?;
        let mut body = body.into_reader();
        let mut buffer = vec![0; 1 << 16];
        while partial.bytes <= total {
            let bytes = partial.bytes;
            (self.progress)(HubProgress { file, bytes, total });
            match body.read(&mut buffer) {
                Ok(0) => return Ok("the connection ended".to_owned()),
                Ok(read) => partial.add(&buffer[..read])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(error.to_string()),
            }
        }
        Ok("more came".to_owned())
    }
}

struct Partial {
    out: File,
    path: PathBuf,
    bytes: u64,
}

impl Partial {
    /// Opens the file with the bytes of an earlier attempt.
    fn open(path: PathBuf) -> Result<Self, HubError> {
        let mut options = OpenOptions::new();
        // Neither truncate nor append: existing bytes are kept, and new ones are written at their
        // offset even if another process writes too.
        let out = options.write(true).create(true).truncate(false).open(&path);
        let out = out.map_err(HubError::io("open", &path))?;
        let bytes = out.metadata().map_err(HubError::io("read", &path))?.len();
        Ok(Self { out, path, bytes })
    }

    /// Truncates to the first `bytes`.
    fn keep(&mut self, bytes: u64) -> Result<(), HubError> {
        let shortened = if bytes < self.bytes {
            self.out.set_len(bytes)
        } else {
            Ok(())
        };
        self.bytes = bytes;
        shortened
            .and_then(|()| self.out.seek(SeekFrom::Start(bytes)).map(drop))
            .map_err(|cause| self.cannot_write(cause))
    }

    fn add(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.bytes += bytes.len() as u64;
        let written = self.out.write_all(bytes);
        written.map_err(|cause| self.cannot_write(cause))
    }

    /// Flushes to disk, so that after a crash no file has its final name without its content.
    fn close(self) -> Result<(), HubError> {
        self.out
            .sync_all()
            .map_err(|cause| self.cannot_write(cause))
    }

    fn cannot_write(&self, cause: io::Error) -> HubError {
        HubError::io("write", &self.path)(cause)
    }
}
