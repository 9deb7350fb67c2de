//! Models by their name on a hub: the folder of `org/name[@revision]`, fetched when needed.
//!
//! Knows the order of things: ask the hub for the commit, fetch what the cache lacks, remember
//! the commit. Knows no model, reads no environment, and shows nothing: settings come in
//! [`HubConfig`], progress goes to the caller. After `snapshot_download` of Python's
//! huggingface_hub, with which it shares the cache.

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

/// A model folder of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HubFolder {
    /// The folder.
    pub path: PathBuf,
    /// The commit that it holds.
    pub commit: String,
    /// The files that were transferred just now; none when the cache had them all.
    pub fetched: Vec<String>,
    /// Why the hub could not be asked, where the cache stood in: there may be a newer commit.
    pub unreachable: Option<String>,
}

/// A place that has models by name.
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
    /// A hub with these settings; nothing is asked yet.
    ///
    /// The address of a proxy is taken from `HTTPS_PROXY` and its like, as by most programs.
    ///
    /// # Errors
    /// [`HubError::Setting`] when a setting cannot be.
    pub fn new(config: HubConfig) -> Result<Self, HubError> {
        config.validate()?;
        let remote = Remote::new(&config);
        Ok(Self { config, remote })
    }

    /// The folder of a model, with those of its files that are read here: configuration,
    /// tokenizer, weights as safetensors, and never a pickle. `progress` is told of every file
    /// that is fetched, several times.
    ///
    /// Offline, the hub is not asked. Otherwise the hub says which commit the revision is now and
    /// which files that has, and what the cache lacks of them is fetched; where the hub does not
    /// answer, the commit that the revision was when last asked has to do. A commit is asked about
    /// as well: another program may have fetched its weights without its tokenizer.
    ///
    /// What the cache has counts as a model with its configuration and all its weights: without a
    /// hub to ask, nobody knows of other files that another program has left out, such as the
    /// exit heads that are of no use to transformers.
    ///
    /// # Errors
    /// When the hub does not know the name or wants a token, the repository is no model, the
    /// connection breaks (another call continues from there), the cache cannot be written; when
    /// offline or without connection the cache lacks something.
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

/// Why there is no answer; `None` for an answer, if an unwelcome one.
fn cause_of_silence(error: &HubError) -> Option<String> {
    match error {
        HubError::Request { cause, .. } => Some(cause.clone()),
        HubError::Status { status, .. } if matches!(status, 408 | 429 | 500..) => {
            Some(format!("status {status}"))
        }
        _ => None,
    }
}
