//! Errors of the hub client.
//!
//! Messages give the location, what was expected and what was found. They never contain the token.

use std::io;
use std::path::PathBuf;

use super::HubName;

/// An error of the hub client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A text is not a model name.
    #[error("expected a model's name, org/name[@revision], with {expected}; found `{found}`")]
    Name {
        /// The text.
        found: String,
        /// The rule that it violates.
        expected: &'static str,
    },
    /// A setting is invalid.
    #[error("`{setting}` of the hub: expected {expected}, found {found}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// What was expected.
        expected: &'static str,
        /// What was found; for a token, only what is wrong with it.
        found: String,
    },
    /// The hub does not have a model, a revision or a file.
    #[error(
        "{name}: expected {expected} at {url}, found none (status {status}{})", said(.message)
    )]
    NotFound {
        /// The model.
        name: HubName,
        /// The model with its revision, or a file.
        expected: String,
        /// The requested URL.
        url: String,
        /// HTTP status.
        status: u16,
        /// Message of the server; may be empty.
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
        /// The requested URL.
        url: String,
        /// HTTP status.
        status: u16,
        /// Message of the server; may be empty.
        message: String,
    },
    /// The hub rejects the token.
    #[error(
        "{name}: {url} refused the token (status {status}{}); is it still valid, and may it read \
         this model?", said(.message)
    )]
    TokenRefused {
        /// The model.
        name: HubName,
        /// The requested URL.
        url: String,
        /// HTTP status.
        status: u16,
        /// Message of the server; may be empty. The token is redacted.
        message: String,
    },
    /// The hub responds with another error status.
    #[error("{url}: expected an answer, found status {status}{}", said(.message))]
    Status {
        /// The requested URL.
        url: String,
        /// HTTP status.
        status: u16,
        /// Message of the server; may be empty.
        message: String,
    },
    /// A response has unexpected content.
    #[error("{url}: expected {expected}, found {found}")]
    Answer {
        /// The requested URL.
        url: String,
        /// What was expected.
        expected: &'static str,
        /// What was found.
        found: String,
    },
    /// The hub is unreachable or unavailable, and the cache does not have the model.
    #[error("{name}: cannot reach {endpoint} ({cause}), and {missing}")]
    Unreachable {
        /// The model.
        name: HubName,
        /// URL of the hub.
        endpoint: String,
        /// Why it cannot be reached.
        cause: String,
        /// What is missing from the cache.
        missing: Missing,
    },
    /// The cache lacks a file in offline mode.
    #[error("{name}: offline, and {missing}")]
    Offline {
        /// The model.
        name: HubName,
        /// What is missing from the cache.
        missing: Missing,
    },
    /// A request failed without a complete response.
    #[error("{url}: no answer: {cause}")]
    Request {
        /// The requested URL.
        url: String,
        /// Message of the HTTP client.
        cause: String,
    },
    /// A download is incomplete. The bytes received are kept, and the next call resumes.
    #[error("{name}, {file}: expected {expected} bytes, found {found}: {cause}")]
    Cut {
        /// The model.
        name: HubName,
        /// The file.
        file: String,
        /// Size of the file, in bytes.
        expected: u64,
        /// Number of bytes present.
        found: u64,
        /// Why the transfer ended.
        cause: String,
    },
    /// The model has only pickled weights, which can execute code and are not read.
    #[error(
        "{name}: expected model.safetensors or model.safetensors.index.json, found only weights \
         that can hold programs: {}; use a revision with safetensors", .found.join(", ")
    )]
    OnlyPickle {
        /// The model.
        name: HubName,
        /// The weight files.
        found: Vec<String>,
    },
    /// The repository lacks a required file.
    #[error("{name}: expected {expected}, found none among the {files} files of the repository")]
    NoSuchFile {
        /// The model.
        name: HubName,
        /// The file, or alternatives of which one is required.
        expected: String,
        /// Number of files in the repository.
        files: usize,
    },
    /// A file of the cache cannot be read or written.
    #[error("cannot {action} {}: {cause}", .path.display())]
    Io {
        /// The operation.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        cause: io::Error,
    },
}

/// What the cache lacks of a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Missing {
    /// The revision is not in the cache.
    #[error("the cache has no such revision: expected {}", .expected.display())]
    Revision {
        /// The missing file or folder.
        expected: PathBuf,
    },
    /// The revision is incomplete.
    #[error("{} of the cache lacks {}", .folder.display(), .files.join(", "))]
    Files {
        /// The folder.
        folder: PathBuf,
        /// The missing files.
        files: Vec<String>,
    },
}

impl HubError {
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
