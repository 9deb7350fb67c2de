//! One commit's files on their way from a hub into the cache.
//!
//! Each is fetched into a file of the cache that no reader looks at, and takes its place when it
//! is whole: a try that is cut off leaves no snapshot that looks complete, and the next continues
//! where it ended. Knows neither URLs nor the cache's layout.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use super::answer::{FileInfo, Listing};
use super::cache::RepoCache;
use super::files::{INDEX, select, shards};
use super::remote::Remote;
use super::{HubError, HubFolder, HubName};

/// How far a file has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubProgress<'a> {
    /// The file, by its name in the repository.
    pub file: &'a str,
    /// Bytes that are there.
    pub bytes: u64,
    /// Bytes of the whole file.
    pub total: u64,
}

/// One commit on its way into the cache.
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

    /// Brings into the cache what it lacks.
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

    /// The files of the index, which is in the snapshot already.
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

    /// Brings a file into the snapshot, unless it is there.
    fn file(&mut self, file: &str) -> Result<(), HubError> {
        let commit = &self.listing.commit;
        if self.cache.snapshot(commit).join(file).exists() {
            return Ok(());
        }
        let info = self.remote.file_info(self.name, commit, file)?;
        let _lock = self.cache.lock(&info.etag)?;
        // Another commit may have it, or another process has fetched it meanwhile.
        if !self.cache.has_blob(&info.etag, info.size) {
            self.blob(file, &info)?;
            self.fetched.push(file.to_owned());
        }
        self.cache.link(&info.etag, &self.listing.commit, file)
    }

    /// Fetches a content, or the rest of it where another try was cut.
    fn blob(&mut self, file: &str, info: &FileInfo) -> Result<(), HubError> {
        let mut partial = Partial::open(self.cache.incomplete(&info.etag))?;
        if partial.bytes > info.size {
            // More bytes arrived than expected: it is unknown which belong to the file.
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

    /// Adds what comes until nothing does, and says why not.
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

/// A content that is not whole yet.
struct Partial {
    out: File,
    path: PathBuf,
    bytes: u64,
}

impl Partial {
    /// With what an earlier try has left.
    fn open(path: PathBuf) -> Result<Self, HubError> {
        let mut options = OpenOptions::new();
        // Neither truncated nor appended to: what is there counts, and what comes is written
        // where it belongs, whoever else writes.
        let out = options.write(true).create(true).truncate(false).open(&path);
        let out = out.map_err(HubError::io("open", &path))?;
        let bytes = out.metadata().map_err(HubError::io("read", &path))?.len();
        Ok(Self { out, path, bytes })
    }

    /// Forgets all but the first `bytes`.
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

    /// A file must not get its name before its content, whatever happens to the machine.
    fn close(self) -> Result<(), HubError> {
        self.out
            .sync_all()
            .map_err(|cause| self.cannot_write(cause))
    }

    fn cannot_write(&self, cause: io::Error) -> HubError {
        HubError::io("write", &self.path)(cause)
    }
}
