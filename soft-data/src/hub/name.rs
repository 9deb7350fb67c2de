//! Model names on a hub: `org/name[@revision]`.
//!
//! Names are validated because they become parts of cache paths and URLs. Follows
//! `validate_repo_id` of Python's huggingface_hub.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use super::HubError;

/// The name of a model on a hub: `org/name`, or `org/name@revision` with a branch, tag or commit.
///
/// ```
/// use soft_data::HubName;
///
/// let name: HubName = "HuggingFaceTB/SmolLM2-135M".parse()?;
/// assert_eq!((name.repo(), name.revision()), ("HuggingFaceTB/SmolLM2-135M", "main"));
/// assert_eq!("a/b@v1".parse::<HubName>()?.to_string(), "a/b@v1");
/// assert!("../b".parse::<HubName>().is_err());
/// # Ok::<(), soft_data::HubError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HubName {
    /// Always with the revision. A single string keeps errors small, as most contain a name.
    text: Box<str>,
    /// Offset of the `@`.
    at: usize,
}

/// The branch used if no revision is given.
const DEFAULT_REVISION: &str = "main";
/// Limit of the hub.
const LONGEST_REPO: usize = 96;

impl HubName {
    /// `org/name`.
    pub fn repo(&self) -> &str {
        &self.text[..self.at]
    }

    /// The branch, tag or commit; defaults to `main`.
    pub fn revision(&self) -> &str {
        &self.text[self.at + 1..]
    }

    pub(super) fn is_commit(&self) -> bool {
        is_commit(self.revision())
    }
}

/// Whether `text` is a full commit hash.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl FromStr for HubName {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let refused = |expected| HubError::Name {
            found: text.to_owned(),
            expected,
        };
        // `@` can occur in a tag, but not in a repository name.
        let (repo, revision) = text.split_once('@').unwrap_or((text, DEFAULT_REVISION));
        let slash = "exactly one slash, as in org/name";
        let (org, name) = repo.split_once('/').ok_or_else(|| refused(slash))?;
        if name.contains('/') {
            return Err(refused(slash));
        }
        for part in [org, name] {
            check_part(part).map_err(refused)?;
        }
        if repo.len() > LONGEST_REPO {
            return Err(refused("at most 96 characters before the @"));
        }
        if name.ends_with(".git") {
            return Err(refused("a name that does not end in .git"));
        }
        check_revision(revision).map_err(refused)?;
        Ok(Self {
            text: format!("{repo}@{revision}").into(),
            at: repo.len(),
        })
    }
}

fn check_part(part: &str) -> Result<(), &'static str> {
    let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if part.is_empty() {
        return Err("something before and after the slash");
    }
    if !part.chars().all(known) {
        return Err("only letters, digits, `-`, `_` and `.` before the @");
    }
    if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) {
        return Err("parts that neither start nor end with `-` or `.`");
    }
    // The cache replaces the slash by `--`.
    if part.contains("--") || part.contains("..") {
        return Err("no `--` and no `..`");
    }
    Ok(())
}

/// Applies git's rules for names, since the revision becomes a path within `refs`.
fn check_revision(revision: &str) -> Result<(), &'static str> {
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || "~^:?*[\\".contains(c);
    if revision.is_empty() {
        return Err("a branch, a tag or a commit after the @");
    }
    if revision.contains(forbidden) {
        return Err("a revision without spaces and without any of ~^:?*[\\");
    }
    let odd = |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with('.');
    if revision.contains("..") || revision.split('/').any(odd) {
        return Err("a revision without empty parts, `..`, and dots around its parts");
    }
    Ok(())
}

impl Display for HubName {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_and_without_revision() {
        for (text, repo, revision) in [
            ("org/name", "org/name", "main"),
            ("org/name@main", "org/name", "main"),
            ("O-1/n_a.m-e@v1.0", "O-1/n_a.m-e", "v1.0"),
            ("org/name@refs/pr/1", "org/name", "refs/pr/1"),
            ("org/name@tag@2", "org/name", "tag@2"),
        ] {
            let name: HubName = text.parse().unwrap();
            assert_eq!((name.repo(), name.revision()), (repo, revision));
            assert_eq!(name.to_string().parse::<HubName>().unwrap(), name);
            assert!(!name.is_commit());
        }
        let commit = format!("org/name@{}", "0a".repeat(20));
        assert!(commit.parse::<HubName>().unwrap().is_commit());
    }

    #[test]
    fn what_is_no_name_is_refused_with_what_is_expected() {
        for (text, expected) in [
            ("", "one slash"),
            ("name", "one slash"),
            ("a/b/c", "one slash"),
            ("/a", "before and after"),
            ("a/", "before and after"),
            ("/", "before and after"),
            ("/absolute/path", "one slash"),
            ("../x", "neither start nor end"),
            ("./x", "neither start nor end"),
            ("x/..", "neither start nor end"),
            ("a..b/c", "`..`"),
            ("a--b/c", "`--`"),
            ("a/b c", "only letters"),
            ("a\\b/c", "only letters"),
            ("a/b.git", ".git"),
            ("a/b@", "after the @"),
            ("a/b@../c", "`..`"),
            ("a/b@/c", "empty parts"),
            ("a/b@c/", "empty parts"),
            ("a/b@.c", "dots around"),
            ("a/b@c d", "without spaces"),
        ] {
            let error = text.parse::<HubName>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(error.contains("org/name[@revision]"), "{error}");
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
        assert!(format!("a/{}", "b".repeat(95)).parse::<HubName>().is_err());
    }
}
