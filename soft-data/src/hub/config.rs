//! Settings of a hub.

use std::fmt::{self, Debug, Formatter};
use std::path::PathBuf;

use super::HubError;

/// Settings of a [`Hub`](crate::Hub).
#[derive(Clone, PartialEq, Eq)]
pub struct HubConfig {
    /// The cache folder, usually `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// URL of the hub.
    pub endpoint: String,
    /// Access token, for private and gated models.
    pub token: Option<String>,
    /// Whether to use the cache only.
    pub offline: bool,
}

impl HubConfig {
    /// Settings for huggingface.co without a token.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self {
            cache: cache.into(),
            endpoint: "https://huggingface.co".to_owned(),
            token: None,
            offline: false,
        }
    }

    pub(super) fn validate(&self) -> Result<(), HubError> {
        let refused = |setting, expected, found: &str| HubError::Setting {
            setting,
            expected,
            found: found.to_owned(),
        };
        let schemes = ["https://", "http://"];
        let host = schemes
            .iter()
            .find_map(|scheme| self.endpoint.strip_prefix(scheme));
        if host.is_none_or(|host| host.is_empty() || host.starts_with('/')) {
            let expected = "an address that begins with https:// or http://";
            return Err(refused(
                "endpoint",
                expected,
                &format!("`{}`", self.endpoint),
            ));
        }
        let printable = |token: &String| token.bytes().all(|byte| byte.is_ascii_graphic());
        match &self.token {
            Some(token) if token.is_empty() => Err(refused("token", "a token or none", "\"\"")),
            Some(token) if !printable(token) => {
                let expected = "letters, digits and signs without spaces";
                Err(refused("token", expected, "another character"))
            }
            _ => Ok(()),
        }
    }
}

/// Omits the token, which must not appear in logs.
impl Debug for HubConfig {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubConfig")
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "[token]"))
            .field("offline", &self.offline)
            .finish()
    }
}
