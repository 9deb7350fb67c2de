//! Models on a hub: resolves `org/name[@revision]` to a folder and downloads missing files.
//!
//! Like `snapshot_download` of Python's huggingface_hub, with which it shares the cache. Settings
//! are passed in [`HubConfig`]; only the proxy is taken from the environment.

use std::fmt::{self, Debug, Formatter};
use std::path::PathBuf;

mod answer;
mod cache;
mod config;
mod error;
mod fetch;
mod files;
mod name;
mod remote;

use cache::RepoCache;
use fetch::Fetching;
use remote::Remote;

pub use config::HubConfig;
pub use error::{HubError, Missing};
pub use fetch::HubProgress;
pub use name::HubName;

/// A model folder in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HubFolder {
    /// The folder.
    pub path: PathBuf,
    /// The commit of the files.
    pub commit: String,
    /// Files downloaded by this call.
    pub fetched: Vec<String>,
    /// Why the hub was not reached and the cache used instead; there may be a newer commit.
    pub unreachable: Option<String>,
}

/// A client of a model hub.
///
/// ```no_run
/// use soft_data::{Hub, HubConfig};
///
/// let hub = Hub::new(HubConfig::new("/home/me/.cache/huggingface/hub"))?;
/// let name = "HuggingFaceTB/SmolLM2-135M".parse()?;
/// let folder = hub.folder(&name, &mut |progress| println!("{progress:?}"))?;
/// println!("{}", folder.path.display());
/// # Ok::<(), soft_data::HubError>(())
/// ```
pub struct Hub {
    config: HubConfig,
    remote: Remote,
}

impl Debug for Hub {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hub").field(&self.config).finish()
    }
}

impl Hub {
    /// Creates a client without contacting the hub.
    ///
    /// The proxy is taken from `HTTPS_PROXY` and related variables.
    ///
    /// # Errors
    /// [`HubError::Setting`] when a setting is invalid.
    pub fn new(config: HubConfig) -> Result<Self, HubError> {
        config.validate()?;
        let remote = Remote::new(&config);
        Ok(Self { config, remote })
    }

    /// Returns the folder of a model with the files used here: configuration, tokenizer, and
    /// weights as safetensors, never as pickle. `progress` is called repeatedly for each file that
    /// is downloaded.
    ///
    /// Offline, only the cache is used. Otherwise the hub resolves the revision to a commit and
    /// lists its files, and files missing from the cache are downloaded. If the hub does not
    /// respond, the commit of the last successful call is used. The hub is also contacted for a
    /// commit, because another program may have downloaded only some of its files.
    ///
    /// Without the hub, a cached model counts as complete if it has its configuration and all
    /// weights. Other files that another program did not download, such as exit heads, cannot be
    /// detected.
    ///
    /// # Errors
    /// When the hub does not know the name or requires a token, the repository is not a model, the
    /// connection breaks (the next call resumes), the cache cannot be written, or files are missing
    /// from the cache while offline or without a connection.
    pub fn folder(
        &self,
        name: &HubName,
        progress: &mut dyn FnMut(HubProgress<'_>),
    ) -> Result<HubFolder, HubError> {
        let cache = RepoCache::new(&self.config.cache, name);
        let cached = cache.complete(name);
        if self.config.offline {
            let offline = |missing| {
                let name = name.clone();
                HubError::Offline { name, missing }
            };
            return cached
                .map(|found| HubFolder::cached(found, None))
                .map_err(offline);
        }
        let listing = match self.remote.listing(name) {
            Ok(listing) => listing,
            Err(error) => {
                let cause = cause_of_silence(&error).ok_or(error)?;
                return match cached {
                    Ok(found) => Ok(HubFolder::cached(found, Some(cause))),
                    Err(missing) => Err(HubError::Unreachable {
                        name: name.clone(),
                        endpoint: self.config.endpoint.clone(),
                        cause,
                        missing,
                    }),
                };
            }
        };
        Fetching::new(&self.remote, cache, name, listing, progress).all()
    }
}

impl HubFolder {
    fn cached((commit, path): (String, PathBuf), unreachable: Option<String>) -> Self {
        Self {
            path,
            commit,
            fetched: Vec::new(),
            unreachable,
        }
    }
}

/// The cause if the hub did not respond or is unavailable; `None` for other errors.
fn cause_of_silence(error: &HubError) -> Option<String> {
    match error {
        HubError::Request { cause, .. } => Some(cause.clone()),
        HubError::Status { status, .. } if matches!(status, 408 | 429 | 500..) => {
            Some(format!("status {status}"))
        }
        _ => None,
    }
}
