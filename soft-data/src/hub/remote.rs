//! HTTP requests to a hub.
//!
//! Paths and headers are those of huggingface.co; see `get_hf_file_metadata` and `repo_info` of
//! Python's huggingface_hub.
//!
//! The crate hf-hub 0.5.0 was rejected after tests against a loopback server. It sent the token to
//! another host named in a redirect. When a server without range support resent the whole file, it
//! appended that to the partial file and took the result as complete. It never recovered from a
//! download that was complete but not yet renamed.

use std::fmt::Write;
use std::time::Duration;

use serde_json::Value;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body, RequestBuilder, typestate::WithoutBody};

use super::answer::{FileInfo, Listing, header};
use super::{HubConfig, HubError, HubName};

const CONNECT: Duration = Duration::from_secs(10);
/// Time without data after which a connection counts as dead.
const SILENCE: Duration = Duration::from_secs(60);
const MOST_REDIRECTS: usize = 10;

pub(super) struct Remote {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

impl Remote {
    pub(super) fn new(config: &HubConfig) -> Self {
        let agent = Agent::config_builder()
            // Statuses are handled here, to report the server's message.
            .http_status_as_error(false)
            // Files are on other hosts, which must not receive the token.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(SILENCE))
            .user_agent(concat!("soft-data/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            agent: agent.into(),
            endpoint: config.endpoint.trim_end_matches('/').to_owned(),
            token: config.token.clone(),
        }
    }

    pub(super) fn listing(&self, name: &HubName) -> Result<Listing, HubError> {
        let (repo, revision) = (name.repo(), escaped(name.revision(), false));
        let url = format!("{}/api/models/{repo}/revision/{revision}", self.endpoint);
        let mut response = self.call(&url, self.with_token(self.agent.get(&url)))?;
        if !response.status().is_success() {
            let expected = match header(&response, "x-error-code") {
                Some("RevisionNotFound") => format!("revision `{}`", name.revision()),
                _ => "a model with this revision".to_owned(),
            };
            return Err(self.refusal(name, url, response, expected));
        }
        let text = response.body_mut().read_to_string();
        let text = text.map_err(|error| broken(&url, &error))?;
        Listing::parse(url, &text)
    }

    pub(super) fn file_info(
        &self,
        name: &HubName,
        commit: &str,
        file: &str,
    ) -> Result<FileInfo, HubError> {
        let mut url = self.file_url(name, commit, file);
        // Redirects within the hub, for renamed models, are followed. The redirect to another host,
        // for large files, has the headers that describe the file.
        for _ in 0..MOST_REDIRECTS {
            let request = self.with_token(self.agent.head(&url));
            let request = request.header("Accept-Encoding", "identity");
            let request = request.config().max_redirects(0).build();
            let response = self.call(&url, request)?;
            let redirect = response.status().is_redirection();
            let location = header(&response, "location").unwrap_or_default();
            if redirect && location.starts_with('/') && !location.starts_with("//") {
                url = format!("{}{location}", origin(&self.endpoint));
            } else if redirect || response.status().is_success() {
                return FileInfo::of(url, &response);
            } else {
                return Err(self.refusal(name, url, response, format!("file `{file}`")));
            }
        }
        Err(HubError::Answer {
            url,
            expected: "a file",
            found: format!("more than {MOST_REDIRECTS} redirects"),
        })
    }

    /// The content of a file and its offset: `start`, or 0 if the server does not support ranges.
    pub(super) fn bytes(
        &self,
        name: &HubName,
        commit: &str,
        file: &str,
        start: u64,
    ) -> Result<(u64, Body), HubError> {
        let url = self.file_url(name, commit, file);
        let request = self.with_token(self.agent.get(&url));
        let mut request = request.header("Accept-Encoding", "identity");
        if start > 0 {
            request = request.header("Range", format!("bytes={start}-"));
        }
        let response = self.call(&url, request)?;
        match response.status() {
            StatusCode::OK => Ok((0, response.into_body())),
            StatusCode::PARTIAL_CONTENT if starts_at(&response, start) => {
                Ok((start, response.into_body()))
            }
            // The range is unavailable; request the whole file.
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if start > 0 => {
                self.bytes(name, commit, file, 0)
            }
            _ => Err(self.refusal(name, url, response, format!("file `{file}`"))),
        }
    }

    fn file_url(&self, name: &HubName, commit: &str, file: &str) -> String {
        let file = escaped(file, true);
        format!("{}/{}/resolve/{commit}/{file}", self.endpoint, name.repo())
    }

    fn with_token(&self, request: RequestBuilder<WithoutBody>) -> RequestBuilder<WithoutBody> {
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    fn call(
        &self,
        url: &str,
        request: RequestBuilder<WithoutBody>,
    ) -> Result<Response<Body>, HubError> {
        request.call().map_err(|error| broken(url, &error))
    }

    fn refusal(
        &self,
        name: &HubName,
        url: String,
        response: Response<Body>,
        expected: String,
    ) -> HubError {
        let name = name.clone();
        let status = response.status().as_u16();
        let message = self.words(response);
        match (status, &self.token) {
            (404, _) => HubError::NotFound {
                name,
                expected,
                url,
                status,
                message,
            },
            (401 | 403, None) => HubError::NeedsToken {
                name,
                url,
                status,
                message,
            },
            (401 | 403, Some(_)) => HubError::TokenRefused {
                name,
                url,
                status,
                message,
            },
            _ => HubError::Status {
                url,
                status,
                message,
            },
        }
    }

    /// The server's error message in one line, without the token.
    fn words(&self, mut response: Response<Body>) -> String {
        let text = match header(&response, "x-error-message") {
            Some(message) => message.to_owned(),
            None => {
                let body = response.body_mut().read_to_string().unwrap_or_default();
                let body: Value = serde_json::from_str(&body).unwrap_or_default();
                body["error"].as_str().unwrap_or_default().to_owned()
            }
        };
        let text = match &self.token {
            Some(token) => text.replace(token, "[token]"),
            None => text,
        };
        let words: Vec<_> = text.split_whitespace().collect();
        words.join(" ").chars().take(300).collect()
    }
}

fn starts_at(response: &Response<Body>, start: u64) -> bool {
    let range = header(response, "content-range").unwrap_or_default();
    range.starts_with(&format!("bytes {start}-"))
}

fn broken(url: &str, error: &ureq::Error) -> HubError {
    HubError::Request {
        url: url.to_owned(),
        cause: error.to_string(),
    }
}

/// The `https://host:port` of a URL.
fn origin(endpoint: &str) -> &str {
    let host = endpoint.find("://").map_or(0, |scheme| scheme + 3);
    let end = endpoint[host..]
        .find('/')
        .map_or(endpoint.len(), |slash| host + slash);
    &endpoint[..end]
}

/// Percent-encodes a part of a URL; `path` keeps slashes.
fn escaped(text: &str, path: bool) -> String {
    let mut url = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) || path && byte == b'/' {
            url.push(byte.into());
        } else {
            // Writing to a string cannot fail.
            write!(url, "%{byte:02X}").ok();
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_urls() {
        assert_eq!(escaped("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(escaped("adapter/a b.json", true), "adapter/a%20b.json");
        assert_eq!(origin("http://a:1/mirror"), "http://a:1");
        assert_eq!(origin("https://a"), "https://a");
    }
}
