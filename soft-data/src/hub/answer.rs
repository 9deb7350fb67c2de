//! Parses responses of a hub. Values that become parts of paths are validated here.

use serde::Deserialize;
use ureq::Body;
use ureq::http::Response;

use super::HubError;
use super::name::is_commit;

pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: Vec<String>,
}

pub(super) struct FileInfo {
    /// Identifies the content.
    pub(super) etag: String,
    pub(super) size: u64,
}

#[derive(Deserialize)]
struct RepoInfo {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Listing {
    pub(super) fn parse(url: String, text: &str) -> Result<Self, HubError> {
        let answer = |found| HubError::Answer {
            url,
            expected: "a repository's commit and files as JSON",
            found,
        };
        let info: RepoInfo = match serde_json::from_str(text) {
            Ok(info) => info,
            Err(error) => return Err(answer(error.to_string())),
        };
        // The commit becomes part of a path.
        if !is_commit(&info.sha) {
            return Err(answer(format!("commit {:?}", info.sha)));
        }
        let files = info.siblings.into_iter().map(|file| file.rfilename);
        Ok(Self {
            commit: info.sha,
            files: files.collect(),
        })
    }
}

impl FileInfo {
    /// Reads the headers of the file at `url`, or of a redirect to it.
    pub(super) fn of(url: String, response: &Response<Body>) -> Result<Self, HubError> {
        let etag = header(response, "x-linked-etag").or_else(|| header(response, "etag"));
        let etag = etag.unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"');
        let own = match response.status().is_redirection() {
            // Length of the redirect's own body.
            true => None,
            false => header(response, "content-length"),
        };
        let size = header(response, "x-linked-size").or(own);
        let size = size.and_then(|size| size.parse().ok());
        // The ETag becomes part of a path.
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        match size {
            Some(size) if !etag.is_empty() && etag.chars().all(plain) => Ok(FileInfo {
                etag: etag.to_owned(),
                size,
            }),
            _ => Err(HubError::Answer {
                url,
                expected: "the ETag and the size of a file",
                found: format!("ETag {etag:?} and size {size:?}"),
            }),
        }
    }
}

pub(super) fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}
