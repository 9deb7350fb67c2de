//! Model folders from the command line: a path, or with the feature `hub` a name on a hub.
//!
//! Environment variables and cache are those of the Python package huggingface_hub, so that both
//! share downloads.

use std::path::{Path, PathBuf};

use anyhow::Result;

/// The folder of a model: `text` if it is a folder, else that of the model `org/name[@revision]` in
/// the cache, fetched if it is missing.
///
/// # Errors
/// If `text` is neither a folder nor a name, or the model cannot be fetched.
pub fn model_folder(text: impl AsRef<Path>) -> Result<PathBuf> {
    let folder = text.as_ref();
    if folder.is_dir() {
        Ok(folder.to_owned())
    } else {
        named::folder(&folder.to_string_lossy())
    }
}

#[cfg(not(feature = "hub"))]
mod named {
    use std::path::PathBuf;

    use anyhow::{Result, bail};

    /// Always fails: fetching needs the feature `hub`.
    pub(super) fn folder(text: &str) -> Result<PathBuf> {
        if !is_name(text) {
            bail!("no folder {text}");
        }
        bail!(
            "no folder {text}; to look for a model of this name on the hub, build with \
             `--features hub`"
        );
    }

    /// Whether this looks like the name of a model. The hub has stricter rules.
    fn is_name(text: &str) -> bool {
        let (repo, revision) = text.split_once('@').unwrap_or((text, "main"));
        let part = |part: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(known)
        };
        let parts = repo.split_once('/');
        !revision.is_empty() && parts.is_some_and(|(org, name)| part(org) && part(name))
    }
}

#[cfg(feature = "hub")]
mod named {
    use std::io::IsTerminal;
    use std::path::PathBuf;
    use std::time::{Duration, Instant};

    use anyhow::{Context, Result, bail};
    use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
    use soft_data::{Hub, HubConfig, HubName, HubProgress};

    use crate::statusln;

    /// Interval of progress lines without a terminal.
    const PLAIN_EVERY: Duration = Duration::from_secs(30);

    /// The folder in the cache, with missing files fetched.
    pub(super) fn folder(text: &str) -> Result<PathBuf> {
        let Ok(name) = text.parse::<HubName>() else {
            bail!("no folder {text}");
        };
        let lookup = |name: &str| std::env::var(name).ok();
        fetch(&name, config(&lookup, std::env::home_dir())?)
            // `text` may be a mistyped folder.
            .with_context(|| {
                format!("no folder {text}, and no model of this name could be fetched")
            })
    }

    fn fetch(name: &HubName, config: HubConfig) -> Result<PathBuf> {
        let endpoint = config.endpoint.clone();
        let into = config.cache.display().to_string();
        let mut download = None;
        let folder = Hub::new(config)?.folder(name, &mut |progress| {
            let download = download.get_or_insert_with(|| {
                statusln!("fetching {name} from {endpoint} into {into}");
                Download::new()
            });
            download.show(progress);
        })?;
        if let Some(cause) = folder.unreachable {
            let commit = &folder.commit;
            statusln!("cannot reach {endpoint} ({cause}): {name} is {commit} of the cache");
        }
        Ok(folder.path)
    }

    /// Settings from the environment variables of huggingface_hub.
    fn config(env: &dyn Fn(&str) -> Option<String>, home: Option<PathBuf>) -> Result<HubConfig> {
        let set = |name: &str| env(name).filter(|value| !value.trim().is_empty());
        let path = |name: &str| {
            let value = set(name)?;
            match (value.strip_prefix("~/"), &home) {
                (Some(rest), Some(home)) => Some(home.join(rest)),
                _ => Some(PathBuf::from(value)),
            }
        };
        let shared = || path("XDG_CACHE_HOME").or_else(|| Some(home.as_ref()?.join(".cache")));
        let hf_home = path("HF_HOME").or_else(|| Some(shared()?.join("huggingface")));
        let cache = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| Some(hf_home.as_ref()?.join("hub")))
            .context("no folder for the cache: set HF_HOME or HF_HUB_CACHE")?;

        let file = path("HF_TOKEN_PATH").or_else(|| Some(hf_home.as_ref()?.join("token")));
        let from_file = || std::fs::read_to_string(file?).ok();
        let token = set("HF_TOKEN")
            .or_else(|| set("HUGGING_FACE_HUB_TOKEN"))
            .or_else(from_file);
        let token = token.map(|token| token.trim().to_owned());

        let yes = ["1", "ON", "YES", "TRUE"];
        let offline = set("HF_HUB_OFFLINE").or_else(|| set("TRANSFORMERS_OFFLINE"));
        let mut config = HubConfig::new(cache);
        if let Some(endpoint) = set("HF_ENDPOINT") {
            config.endpoint = endpoint.trim().to_owned();
        }
        config.token = token.filter(|token| !token.is_empty());
        config.offline = offline.is_some_and(|value| yes.contains(&value.to_uppercase().as_str()));
        Ok(config)
    }

    /// One progress bar per file, or plain lines if stderr is not a terminal.
    struct Download {
        file: String,
        bar: ProgressBar,
        plain: bool,
        last_line: Instant,
    }

    impl Download {
        fn new() -> Self {
            Self {
                file: String::new(),
                bar: ProgressBar::hidden(),
                plain: !std::io::stderr().is_terminal(),
                last_line: Instant::now(),
            }
        }

        fn show(&mut self, HubProgress { file, bytes, total }: HubProgress<'_>) {
            if self.file != file {
                self.file = file.to_owned();
                self.last_line = Instant::now();
                self.bar = bar(file, bytes, total);
            }
            self.bar.set_position(bytes);
            let done = bytes == total;
            if done {
                self.bar.finish_and_clear();
            }
            if self.plain && (done || self.last_line.elapsed() > PLAIN_EVERY) {
                self.last_line = Instant::now();
                statusln!("{file} {}/{}", HumanBytes(bytes), HumanBytes(total));
            }
        }
    }

    /// A progress bar of a file that starts at the bytes of an earlier attempt.
    fn bar(file: &str, bytes: u64, total: u64) -> ProgressBar {
        let bar = ProgressBar::new(total).with_position(bytes);
        if let Ok(style) = ProgressStyle::with_template(
            "{prefix} [{bar:24}] {bytes}/{total_bytes} {bytes_per_sec} left {eta}",
        ) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(file.to_owned());
        bar.reset_eta();
        bar
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn config_of(variables: &[(&str, &str)]) -> HubConfig {
            let lookup = |name: &str| {
                let mut known = variables.iter();
                known.find_map(|&(key, value)| (key == name).then(|| value.to_owned()))
            };
            config(&lookup, Some(PathBuf::from("/home/me"))).unwrap()
        }

        #[test]
        fn the_cache_is_where_huggingface_hub_has_it() {
            let cache = |variables: &[(&str, &str)]| config_of(variables).cache;
            let expected = |path: &str| PathBuf::from(path);
            assert_eq!(cache(&[]), expected("/home/me/.cache/huggingface/hub"));
            let mut variables = vec![("XDG_CACHE_HOME", "/xdg")];
            assert_eq!(cache(&variables), expected("/xdg/huggingface/hub"));
            variables.push(("HF_HOME", "~/hf"));
            assert_eq!(cache(&variables), expected("/home/me/hf/hub"));
            variables.push(("HUGGINGFACE_HUB_CACHE", "/old"));
            assert_eq!(cache(&variables), expected("/old"));
            variables.push(("HF_HUB_CACHE", "/cache"));
            assert_eq!(cache(&variables), expected("/cache"));
        }

        #[test]
        fn endpoint_token_and_offline_come_from_the_environment() {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("token"), "hf_file\n").unwrap();
            let home = ("HF_HOME", folder.path().to_str().unwrap());
            let config = config_of(&[home]);
            assert_eq!(config.endpoint, "https://huggingface.co");
            assert_eq!(config.token.as_deref(), Some("hf_file"));
            assert!(!config.offline);

            let config = config_of(&[
                home,
                ("HF_TOKEN", " hf_own\n"),
                ("HF_ENDPOINT", "https://mirror"),
                ("HF_HUB_OFFLINE", "true"),
            ]);
            assert_eq!(config.endpoint, "https://mirror");
            assert_eq!(config.token.as_deref(), Some("hf_own"));
            assert!(config.offline);
            assert!(!config_of(&[("HF_HUB_OFFLINE", "0")]).offline);
            assert_eq!(
                config_of(&[("HF_HOME", "/nowhere"), ("HF_TOKEN", "")]).token,
                None
            );
        }

        #[test]
        fn what_is_missing_offline_is_named_with_what_was_looked_for() {
            let folder = tempfile::tempdir().unwrap();
            let config = HubConfig {
                offline: true,
                ..HubConfig::new(folder.path())
            };
            let error = fetch(&"org/name".parse().unwrap(), config).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains("org/name@main: offline"), "{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_taken_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().to_str().unwrap();
        assert_eq!(model_folder(text).unwrap(), folder.path());
    }

    #[test]
    fn what_is_neither_folder_nor_name_is_named() {
        for text in [
            "",
            "nowhere",
            "../no/folder",
            "/no/folder",
            "a/b/c",
            "./a",
            "a/b@",
        ] {
            let error = format!("{:#}", model_folder(text).unwrap_err());
            assert_eq!(error, format!("no folder {text}"));
        }
    }

    #[test]
    #[cfg(not(feature = "hub"))]
    fn a_name_needs_the_feature() {
        for text in ["org/name", "org/name@v1"] {
            let error = model_folder(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("no folder {text};")), "{error}");
            assert!(error.contains("--features hub"), "{error}");
        }
    }
}
