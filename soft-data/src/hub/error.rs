//! Errors of the hub client.
//!
//! Every variant says where, what was expected and what came. None holds the token.

use std::io;
use std::path::PathBuf;

use super::HubName;

/// An error of the hub.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A text that names no model.
    #[error("expected a model's name, org/name[@revision], with {expected}; found `{found}`")]
    Name {
        /// The text.
        found: String,
        /// What a name has and this one lacks.
        expected: &'static str,
    },
    /// A setting that cannot be.
    #[error("`{setting}` of the hub: expected {expected}, found {found}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// What belongs there.
        expected: &'static str,
        /// What is there; of a token only what is wrong with it.
        found: String,
    },
    /// The hub does not know a model, a revision or a file.
    #[error(
        "{name}: expected {expected} at {url}, found none (status {status}{})", said(.message)
    )]
    NotFound {
        /// The model.
        name: HubName,
        /// What was looked for: the model and its revision, or a file.
        expected: String,
        /// Where.
        url: String,
        /// The server's status.
        status: u16,
        /// The server's own words, if any.
        message: String,
    },
    /// The hub requires a token, and none was given.
    #[error(
        "{name}: {url} needs a token, found none (status {status}{}); the hub answers so to \
         models that are private or gated, and to names that it does not know", said(.message)
    )]
    NeedsToken {
        /// The model.
        name: HubName,
        /// What was asked for.
        url: String,
        /// The server's status.
        status: u16,
        /// The server's own words, if any.
        message: String,
    },
    /// The hub refuses access with this token, or without one.
    #[error(
        "{name}: {url} refused the token (status {status}{}); is it still valid, and may it read \
         this model?", said(.message)
    )]
    TokenRefused {
        /// The model.
        name: HubName,
        /// What was asked for.
        url: String,
        /// The server's status.
        status: u16,
        /// The server's own words, if any; without the token, should they repeat it.
        message: String,
    },
    /// The hub has another trouble.
    #[error("{url}: expected an answer, found status {status}{}", said(.message))]
    Status {
        /// What was asked for.
        url: String,
        /// The server's status.
        status: u16,
        /// The server's own words, if any.
        message: String,
    },
    /// An answer that is none of a hub.
    #[error("{url}: expected {expected}, found {found}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What a hub answers.
        expected: &'static str,
        /// What came.
        found: String,
    },
    /// The hub cannot be reached, and the cache does not have the model.
    #[error("{name}: cannot reach {endpoint} ({cause}), and {missing}")]
    Unreachable {
        /// The model.
        name: HubName,
        /// Address of the hub.
        endpoint: String,
        /// Why it cannot be reached.
        cause: String,
        /// What the cache lacks.
        missing: Missing,
    },
    /// The cache lacks a file, and the hub may not be asked (offline mode).
    #[error("{name}: offline, and {missing}")]
    Offline {
        /// The model.
        name: HubName,
        /// What the cache lacks.
        missing: Missing,
    },
    /// The connection broke while the hub answered.
    #[error("{url}: no answer: {cause}")]
    Request {
        /// What was asked for.
        url: String,
        /// What the connection said.
        cause: String,
    },
    /// A file did not come whole. What came is kept, and another try continues from there.
    #[error("{name}, {file}: expected {expected} bytes, found {found}: {cause}")]
    Cut {
        /// The model.
        name: HubName,
        /// The file.
        file: String,
        /// Its size.
        expected: u64,
        /// How much of it is there.
        found: u64,
        /// Why it ended.
        cause: String,
    },
    /// The weights of a model are pickles, which can hold programs and are not read.
    #[error(
        "{name}: expected model.safetensors or model.safetensors.index.json, found only weights \
         that can hold programs: {}; use a revision with safetensors", .found.join(", ")
    )]
    OnlyPickle {
        /// The model.
        name: HubName,
        /// Files with weights.
        found: Vec<String>,
    },
    /// A repository that lacks a file that every model has.
    #[error("{name}: expected {expected}, found none among the {files} files of the repository")]
    NoSuchFile {
        /// The model.
        name: HubName,
        /// The file, or files of which one is needed.
        expected: String,
        /// Number of files there are.
        files: usize,
    },
    /// A file of the cache cannot be read or written.
    #[error("cannot {action} {}: {cause}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
}

/// What the cache lacks of a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Missing {
    /// The revision was never fetched.
    #[error("the cache has no such revision: expected {}", .expected.display())]
    Revision {
        /// The file or folder that would say otherwise.
        expected: PathBuf,
    },
    /// The revision was fetched, but not all of it.
    #[error("{} of the cache lacks {}", .folder.display(), .files.join(", "))]
    Files {
        /// The folder.
        folder: PathBuf,
        /// What it lacks.
        files: Vec<String>,
    },
}

impl HubError {
    /// Names the path that an operation failed on.
    pub(super) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Self::Io {
            action,
            path,
            cause,
        }
    }
}

fn said(message: &str) -> String {
    match message {
        "" => String::new(),
        message => format!(": {message}"),
    }
}
