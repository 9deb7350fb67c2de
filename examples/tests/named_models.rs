//! Models by hub name on the command line, from a cache like that of huggingface_hub; fetching is
//! tested in soft-data.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test's way to fail

mod programs;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use programs::{soft, tiny_llama};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A cache with the quickstart's model as `org/tiny`.
fn cache() -> tempfile::TempDir {
    let cache = tempfile::tempdir().unwrap();
    let repo = cache.path().join("models--org--tiny");
    let snapshot = repo.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir(repo.join("refs")).unwrap();
    fs::write(repo.join("refs/main"), COMMIT).unwrap();
    for file in fs::read_dir(tiny_llama()).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), snapshot.join(file.file_name())).unwrap();
    }
    cache
}

fn offline(subcommand: &str, cache: &Path) -> Command {
    let mut command = soft(subcommand);
    command
        .env("HF_HUB_CACHE", cache)
        .env("HF_HUB_OFFLINE", "1");
    command
}

fn generate(cache: &Path, model: &str) -> Output {
    let mut command = offline("generate", cache);
    command.args(["--model", model, "--prompt", "anka has a", "--json"]);
    command.args(["--max-new-tokens", "5"]).output().unwrap()
}

#[test]
fn a_name_is_as_good_as_its_folder() {
    let cache = cache();
    let by_folder = generate(cache.path(), tiny_llama().to_str().unwrap());
    assert!(by_folder.status.success());
    let pinned = format!("org/tiny@{COMMIT}");
    for name in ["org/tiny", "org/tiny@main", &pinned] {
        let by_name = generate(cache.path(), name);
        let error = String::from_utf8_lossy(&by_name.stderr);
        assert!(by_name.status.success(), "{error}");
        let tokens = |output: &Output| {
            let text = String::from_utf8_lossy(&output.stdout);
            let answer = text.lines().next().unwrap_or_default();
            let answer: serde_json::Value = serde_json::from_str(answer).unwrap();
            answer["tokens"].clone()
        };
        assert!(tokens(&by_name).as_array().is_some_and(|t| !t.is_empty()));
        assert_eq!(tokens(&by_name), tokens(&by_folder));
    }
}

#[test]
fn what_the_cache_lacks_is_named() {
    let cache = cache();
    for (name, parts) in [
        ("org/other", ["org/other@main", "offline"]),
        ("org/tiny@v2", ["org/tiny@v2", "offline"]),
        ("nowhere", ["no folder nowhere", ""]),
    ] {
        let output = generate(cache.path(), name);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        for part in parts {
            assert!(error.contains(part), "no {part:?} in {error}");
        }
    }
}

/// Thresholds are stored in the model's folder, but not in the cache, which belongs to the hub.
#[test]
fn a_cached_model_is_not_written_into() {
    let cache = cache();
    let prompts = cache.path().join("prompts.txt");
    fs::write(&prompts, "anka has a\n").unwrap();
    let mut command = offline("calibrate", cache.path());
    command
        .args(["--model", "org/tiny", "--prompts"])
        .arg(prompts);
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(error.contains("no folder org/tiny"), "{error}");
    assert!(error.contains("--dry-run"), "{error}");
}
