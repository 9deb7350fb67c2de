//! Downloads from a local server that responds like huggingface.co.

#![allow(clippy::unwrap_used, clippy::panic)] // a test's way to fail

mod cache;
mod downloads;
mod server;

use std::fs;
use std::path::Path;

use soft_data::{Hub, HubConfig, HubError, HubFolder, HubName};
use tempfile::TempDir;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

const CONFIG: (&str, &str) = ("config.json", "{}");
const TOKENIZER: (&str, &str) = ("tokenizer.json", r#"{"model": {}}"#);
const WEIGHTS: (&str, &str) = (SINGLE, "the weights of a tiny model");
const TINY: [(&str, &str); 3] = [CONFIG, TOKENIZER, WEIGHTS];

fn main_of_tiny() -> HubName {
    "org/name".parse().unwrap()
}

fn folder(hub: &Hub) -> Result<HubFolder, HubError> {
    hub.folder(&main_of_tiny(), &mut |_| ())
}

fn offline(cache: &TempDir) -> Hub {
    let config = HubConfig {
        offline: true,
        ..HubConfig::new(cache.path())
    };
    Hub::new(config).unwrap()
}

fn repo(cache: &TempDir) -> std::path::PathBuf {
    cache.path().join("models--org--name")
}

fn text(folder: &Path, file: &str) -> String {
    fs::read_to_string(folder.join(file)).unwrap()
}
