//! Who may ask: the API key, and requests that a web page elsewhere makes a browser send.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, Method, StatusCode};

use super::refusal::Refusal;

#[derive(Clone, Debug)]
pub struct Access {
    key: Option<String>,
    /// The address listened at, on this machine if there is no key.
    address: IpAddr,
}

impl Access {
    /// Refuses to be reached from elsewhere without a key.
    pub fn new(key: Option<String>, file: Option<&Path>, address: SocketAddr) -> Result<Self> {
        let key = match file {
            Some(path) => {
                let read = std::fs::read_to_string(path);
                Some(read.with_context(|| format!("cannot read {}", path.display()))?)
            }
            None => key,
        };
        let key = key.map(|key| key.trim().to_owned());
        ensure!(
            key.as_deref() != Some(""),
            "the API key is empty: expected at least one character"
        );
        ensure!(
            address.ip().is_loopback() || key.is_some(),
            "listening at {address}, where other machines reach the server, needs --api-key-file or \
             --api-key"
        );
        let address = address.ip();
        Ok(Self { key, address })
    }

    /// Checks a request to the API.
    pub fn check(&self, method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
        self.check_host(headers)?;
        if let Some(key) = &self.key {
            let given = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
            let given = given.and_then(|value| value.strip_prefix(b"Bearer "));
            if !given.is_some_and(|given| same(given, key.as_bytes())) {
                let message =
                    "expected the header `Authorization: Bearer KEY` with the server's API key";
                return Err(Refusal::new(
                    StatusCode::UNAUTHORIZED,
                    "invalid_api_key",
                    message,
                ));
            }
        }
        // A page elsewhere can send a form or plain text here unasked, but not JSON.
        let kind = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let is_json =
            kind.is_some_and(|kind| kind.to_ascii_lowercase().starts_with("application/json"));
        if method == Method::POST && !is_json {
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            let message = format!("content-type is {kind:?}: expected application/json");
            return Err(Refusal::new(status, "unsupported_media_type", message));
        }
        Ok(())
    }

    /// Without a key, the name in the URL must be this machine's: a page elsewhere can make its own
    /// name resolve to 127.0.0.1 (DNS rebinding).
    pub fn check_host(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let host = headers.get(HOST).and_then(|value| value.to_str().ok());
        let Some(host) = host.filter(|_| self.key.is_none()) else {
            return Ok(());
        };
        let name = host.rsplit_once(':').map_or(host, |(name, port)| {
            if port.bytes().all(|byte| byte.is_ascii_digit()) {
                name
            } else {
                host
            }
        });
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        if name == "localhost" || bare.parse() == Ok(self.address) {
            return Ok(());
        }
        let message = format!("host is {host:?}: this server is for localhost");
        Err(Refusal::new(StatusCode::FORBIDDEN, "wrong_host", message))
    }
}

/// Compares in a time that does not depend on where the texts differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}
