//! Selects the files of a repository that make up a model folder.
//!
//! Lists only files that this workspace reads, and none that can execute code.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::{HubError, HubName};

/// Required in every model.
pub(super) const CONFIG: &str = "config.json";
/// Weights in a single file.
pub(super) const SINGLE: &str = "model.safetensors";
/// Index of sharded weights.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Optional files.
const BESIDE: [&str; 16] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja",
    "soft.json",
    "draft_tokens.json",
    "exit_probes.json",
    "LICENSE",
    "exit_heads.safetensors",
    "exit_blocks.safetensors",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
];

/// Extensions of pickled weights.
const PICKLES: [&str; 6] = [".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"];

pub(super) struct Selection {
    /// In download order, without the weights.
    pub(super) files: Vec<&'static str>,
    /// [`SINGLE`] or [`INDEX`]. Downloaded last, so that a snapshot with weights is complete.
    pub(super) weights: &'static str,
}

/// Selects the files to download. A single weight file takes precedence over shards, as in the
/// reader of the folder.
pub(super) fn select(name: &HubName, listed: &[String]) -> Result<Selection, HubError> {
    let has = |file: &&str| listed.iter().any(|listed| listed == file);
    let lacks = |expected: &str| HubError::NoSuchFile {
        name: name.clone(),
        expected: expected.to_owned(),
        files: listed.len(),
    };
    let Some(weights) = [SINGLE, INDEX].into_iter().find(has) else {
        let pickle = |file: &&String| PICKLES.iter().any(|ending| file.ends_with(ending));
        let found: Vec<_> = listed.iter().filter(pickle).cloned().collect();
        if found.is_empty() {
            return Err(lacks("model.safetensors or model.safetensors.index.json"));
        }
        let name = name.clone();
        return Err(HubError::OnlyPickle { name, found });
    };
    if !has(&CONFIG) {
        return Err(lacks(CONFIG));
    }
    let beside = BESIDE.into_iter().filter(has);
    let files = [CONFIG].into_iter().chain(beside).collect();
    Ok(Selection { files, weights })
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// The weight files in an index; `None` if it is not an index of safetensors files.
pub(super) fn shards(index: &str) -> Option<Vec<String>> {
    let index: ShardIndex = serde_json::from_str(index).ok()?;
    let shards: BTreeSet<_> = index.weight_map.into_values().collect();
    // The index is untrusted, and the names become paths.
    let harmless = |shard: &String| is_inside(shard) && shard.ends_with(".safetensors");
    (!shards.is_empty() && shards.iter().all(harmless)).then(|| shards.into_iter().collect())
}

/// Whether a relative path with slashes stays inside its folder.
fn is_inside(file: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let inside = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(plain);
    file.split('/').all(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select_from(files: &[&str]) -> Result<Selection, HubError> {
        let listed: Vec<_> = files.iter().map(|&file| file.to_owned()).collect();
        select(&"org/name".parse().unwrap(), &listed)
    }

    #[test]
    fn only_what_a_reader_opens_is_taken_and_weights_come_last() {
        let all = [
            "pytorch_model.bin",
            SINGLE,
            "tf_model.h5",
            "LICENSE",
            CONFIG,
        ];
        let selection = select_from(&all).unwrap();
        assert_eq!(selection.files, [CONFIG, "LICENSE"]);
        assert_eq!(selection.weights, SINGLE);
        let both = select_from(&[INDEX, SINGLE, CONFIG]).unwrap();
        assert_eq!(both.weights, SINGLE);
        assert_eq!(select_from(&[INDEX, CONFIG]).unwrap().weights, INDEX);
    }

    #[test]
    fn what_makes_no_model_is_refused() {
        let error = select_from(&[CONFIG, "pytorch_model.bin", "x.pt", "README.md"]);
        let error = error.err().unwrap().to_string();
        assert!(error.contains("pytorch_model.bin, x.pt"), "{error}");
        let error = select_from(&[CONFIG, "README.md"]).err().unwrap();
        assert!(
            matches!(error, HubError::NoSuchFile { files: 2, .. }),
            "{error}"
        );
        let error = select_from(&[SINGLE]).err().unwrap().to_string();
        assert!(error.contains(CONFIG), "{error}");
    }

    #[test]
    fn an_index_names_safetensors_inside_the_folder() {
        let index = |shard: &str| serde_json::json!({"weight_map": {"a": shard}}).to_string();
        assert_eq!(
            shards(&index("m-1.safetensors")).unwrap(),
            ["m-1.safetensors"]
        );
        for shard in [
            "../m.safetensors",
            "/m.safetensors",
            "a//m.safetensors",
            "m.bin",
            "",
        ] {
            assert_eq!(shards(&index(shard)), None, "{shard}");
        }
        assert_eq!(shards("{}"), None);
        assert_eq!(shards(r#"{"weight_map": {}}"#), None);
    }
}
