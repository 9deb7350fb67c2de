//! Invalid model folders: each gives one clear error with the file, the tensor, what was expected
//! and what was found. Existing output is left unchanged.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests fail by panicking

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use soft_burn::{Llama, SaveOptions, device};
use tempfile::TempDir;

fn copy_of(fixture: &str) -> TempDir {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(fixture);
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

/// Asserts that loading `folder` fails with an error that contains all of `parts`.
#[track_caller]
fn refused(folder: &Path, parts: &[&str]) {
    let error = match Llama::from_pretrained(folder, &device("cpu").unwrap()) {
        Ok(_) => panic!("{} was accepted", folder.display()),
        Err(error) => error.to_string(),
    };
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

fn edit_config(folder: &Path, key: &str, value: Value) {
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    config[key] = value;
    fs::write(path, config.to_string()).unwrap();
}

fn edit_header(path: &Path, edit: impl FnOnce(&mut Value)) {
    let bytes = fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    edit(&mut header);
    let text = header.to_string();
    let mut changed = (text.len() as u64).to_le_bytes().to_vec();
    changed.extend(text.as_bytes());
    changed.extend(&bytes[8 + length..]);
    fs::write(path, changed).unwrap();
}

const WEIGHTS: &str = "model.safetensors";

#[test]
fn missing_folder_or_file() {
    refused(
        Path::new("/no/such/folder"),
        &["/no/such/folder/config.json", "read"],
    );
    let folder = copy_of("untied_mha");
    fs::remove_file(folder.path().join(WEIGHTS)).unwrap();
    refused(folder.path(), &[WEIGHTS, "found no weights"]);
}

#[test]
fn weights_in_other_formats_are_named_with_what_to_do() {
    let folder = copy_of("untied_mha");
    fs::remove_file(folder.path().join(WEIGHTS)).unwrap();
    fs::write(folder.path().join("model-q4.gguf"), "GGUF").unwrap();
    refused(folder.path(), &["found model-q4.gguf", "safetensors"]);
    fs::write(folder.path().join("pytorch_model.bin"), "x").unwrap();
    refused(folder.path(), &["found pytorch_model.bin", "save it again"]);
    let folder = copy_of("untied_mha");
    let quantized = json!({"quant_method": "gptq", "bits": 4});
    edit_config(folder.path(), "quantization_config", quantized);
    refused(
        folder.path(),
        &["quantization_config is gptq", "dequantised"],
    );
}

#[test]
fn numbers_that_are_not_finite() {
    for value in [f32::NAN, f32::INFINITY] {
        let folder = copy_of("untied_mha");
        let path = folder.path().join(WEIGHTS);
        let mut bytes = fs::read(&path).unwrap();
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&value.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        refused(folder.path(), &[WEIGHTS, "holds", "damaged"]);
    }
}

#[test]
fn files_outside_the_folder_and_files_that_are_none() {
    let folder = copy_of("tied_gqa_llama3");
    let path = folder.path().join("model.safetensors.index.json");
    let text = fs::read_to_string(&path).unwrap();
    for outside in ["../secret", "/etc/passwd", "a\\\\b", ""] {
        fs::write(
            &path,
            text.replace("model-00001-of-00003.safetensors", outside),
        )
        .unwrap();
        refused(
            folder.path(),
            &["index.json", "expected files in the folder"],
        );
    }
    let folder = copy_of("untied_mha");
    fs::remove_file(folder.path().join(WEIGHTS)).unwrap();
    fs::create_dir(folder.path().join(WEIGHTS)).unwrap();
    refused(folder.path(), &[WEIGHTS, "not a regular file"]);
}

/// Reading a pipe without a writer blocks forever; following a loop of links finds nothing.
#[cfg(unix)]
#[test]
fn pipes_and_loops_of_links() {
    let folder = copy_of("untied_mha");
    for name in ["config.json", WEIGHTS] {
        let path = folder.path().join(name);
        let kept = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        refused(folder.path(), &[name, "not a regular file"]);
        fs::remove_file(&path).unwrap();
        fs::write(&path, kept).unwrap();
    }
    let adapter = folder.path().join("adapter");
    std::os::unix::fs::symlink(&adapter, &adapter).unwrap();
    refused(folder.path(), &["adapter", "ymbolic link"]);
}

#[test]
fn malformed_config_names_its_line() {
    let folder = copy_of("untied_mha");
    fs::write(folder.path().join("config.json"), "{\n  \"vocab_size\": }").unwrap();
    refused(folder.path(), &["config.json", "line 2"]);
}

#[test]
fn other_architectures() {
    for (key, value, expected) in [
        (
            "model_type",
            json!("gemma2"),
            "llama, mistral, qwen2, qwen3",
        ),
        (
            "architectures",
            json!(["MistralForCausalLM"]),
            "LlamaForCausalLM",
        ),
        ("hidden_act", json!("gelu"), "silu"),
        ("partial_rotary_factor", json!(0.5), "as a whole"),
        (
            "rope_scaling",
            json!({ "rope_type": "longrope", "factor": 2.0 }),
            "llama3",
        ),
        (
            "rope_scaling",
            json!({ "full_attention": { "rope_type": "default" } }),
            "for all blocks",
        ),
        ("rope_scaling", json!("linear"), "an object"),
        ("rope_scaling", json!([]), "an object"),
        ("num_key_value_heads", json!(3), "divisor"),
        ("head_dim", json!(5), "even"),
        ("num_hidden_layers", json!(0), "1 to"),
        ("num_hidden_layers", json!(1_000_000_000_000_000u64), "1 to"),
    ] {
        let folder = copy_of("untied_mha");
        edit_config(folder.path(), key, value);
        let key = match expected {
            "llama3" => "rope_type",
            _ => key,
        };
        refused(folder.path(), &["config.json", key, expected]);
    }
}

#[test]
fn windows_that_contradict_each_other() {
    let folder = copy_of("qwen2");
    let all_full = json!(["full_attention", "full_attention", "full_attention"]);
    edit_config(folder.path(), "layer_types", all_full);
    refused(
        folder.path(),
        &["layer_types", "full_attention for block 1"],
    );
    let folder = copy_of("qwen2");
    edit_config(folder.path(), "layer_types", json!(["full_attention"]));
    refused(
        folder.path(),
        &["layer_types", "1 types", "3, one per block"],
    );
    let folder = copy_of("mistral");
    edit_config(folder.path(), "sliding_window", json!(0));
    refused(folder.path(), &["sliding_window", "at least 1"]);
}

#[test]
fn biases_in_one_place_only() {
    let folder = copy_of("llama_biases");
    edit_config(folder.path(), "mlp_bias", json!(false));
    refused(
        folder.path(),
        &["mlp.down_proj.bias", "no bias there", WEIGHTS],
    );
    let folder = copy_of("untied_mha");
    edit_config(folder.path(), "attention_bias", json!(true));
    refused(folder.path(), &["self_attn.q_proj.bias", "missing"]);
}

#[test]
fn missing_tensor() {
    let folder = copy_of("untied_mha");
    edit_config(folder.path(), "num_hidden_layers", json!(5));
    refused(folder.path(), &["model.layers.4.", "missing", "[16]"]);
}

#[test]
fn extra_tensor() {
    let folder = copy_of("untied_mha");
    edit_config(folder.path(), "num_hidden_layers", json!(3));
    refused(folder.path(), &[WEIGHTS, "model.layers.3.", "no part"]);
}

#[test]
fn misshapen_tensor() {
    let folder = copy_of("untied_mha");
    edit_config(folder.path(), "intermediate_size", json!(25));
    refused(
        folder.path(),
        &["mlp.gate_proj.weight", "[24, 16]", "[25, 16]"],
    );
}

#[test]
fn tensor_of_another_number_type() {
    let folder = copy_of("untied_mha");
    edit_header(&folder.path().join(WEIGHTS), |header| {
        header["model.norm.weight"]["dtype"] = json!("I32")
    });
    refused(folder.path(), &["model.norm.weight", "I32", "BF16"]);
}

#[test]
fn truncated_weights() {
    for keep in [0, 5, 100] {
        let folder = copy_of("untied_mha");
        let path = folder.path().join(WEIGHTS);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..keep]).unwrap();
        refused(folder.path(), &[WEIGHTS, "not a valid safetensors file"]);
    }
    let folder = copy_of("untied_mha");
    let path = folder.path().join(WEIGHTS);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    refused(folder.path(), &[WEIGHTS, "bytes of tensors", "describes"]);
}

#[test]
fn header_length_beyond_the_file() {
    let folder = copy_of("untied_mha");
    let path = folder.path().join(WEIGHTS);
    let mut bytes = fs::read(&path).unwrap();
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    refused(
        folder.path(),
        &[WEIGHTS, "header length is 18446744073709551615", "at most"],
    );
}

#[test]
fn offsets_that_overlap_or_leave_gaps() {
    let folder = copy_of("untied_mha");
    edit_header(&folder.path().join(WEIGHTS), |header| {
        header["model.norm.weight"]["data_offsets"] = json!([0, 64]);
    });
    refused(folder.path(), &[WEIGHTS, "offset"]);
}

#[test]
fn header_that_is_no_json() {
    let folder = copy_of("untied_mha");
    let path = folder.path().join(WEIGHTS);
    let mut bytes = fs::read(&path).unwrap();
    bytes[9] = b'!';
    fs::write(&path, bytes).unwrap();
    refused(folder.path(), &[WEIGHTS, "header"]);
}

#[test]
fn shard_in_the_index_but_absent() {
    let folder = copy_of("tied_gqa_llama3");
    fs::remove_file(folder.path().join("model-00002-of-00003.safetensors")).unwrap();
    refused(folder.path(), &["model-00002-of-00003.safetensors", "read"]);
}

#[test]
fn index_and_shards_that_disagree() {
    let folder = copy_of("tied_gqa_llama3");
    let path = folder.path().join("model.safetensors.index.json");
    let mut index: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    index["weight_map"]["model.extra.weight"] = json!("model-00001-of-00003.safetensors");
    fs::write(&path, index.to_string()).unwrap();
    refused(
        folder.path(),
        &["model-00001-of-00003.safetensors", "model.extra.weight"],
    );
}

#[test]
fn exits_beyond_the_depth() {
    let model =
        Llama::from_pretrained(copy_of("untied_mha").path(), &device("cpu").unwrap()).unwrap();
    let error = model
        .with_exit_heads(&"2,9".parse().unwrap())
        .unwrap_err()
        .to_string();
    assert!(error.contains('9') && error.contains("4 blocks"), "{error}");
}

#[test]
fn output_that_exists_is_left_alone() {
    let model =
        Llama::from_pretrained(copy_of("untied_mha").path(), &device("cpu").unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("precious"), "x").unwrap();
    let error = model
        .save_pretrained(folder.path(), &SaveOptions::default())
        .unwrap_err();
    assert!(error.to_string().contains("is there already"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// Writing below a regular file fails for every user; root may write into read-only folders.
#[test]
fn output_that_cannot_be_written() {
    let model =
        Llama::from_pretrained(copy_of("untied_mha").path(), &device("cpu").unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    let error = model
        .save_pretrained(file.join("model"), &SaveOptions::default())
        .unwrap_err();
    assert!(error.to_string().contains("cannot create"), "{error}");
    assert_eq!(fs::read_to_string(file).unwrap(), "x");
}
