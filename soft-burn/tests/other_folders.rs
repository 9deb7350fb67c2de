//! Model folders that other programs write give the models that transformers or PEFT loads.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests fail by panicking

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::{Value, json};
use soft_burn::burn::tensor::{Int, Tensor};
use soft_burn::{Adapter, Llama, LlamaConfig, SaveOptions, device};
use soft_core::{Exit, NestedModel};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn load(folder: &Path) -> Llama {
    Llama::from_pretrained(folder, &device("cpu").unwrap()).unwrap()
}

/// Logits at full depth for the token ids of the fixtures.
fn logits(model: &Llama) -> Vec<f32> {
    let tokens: Vec<i64> = (0..9).map(|i| (5 * i + 2) % 23).collect();
    let tokens = Tensor::<1, Int>::from_data(tokens.as_slice(), &model.device());
    let exit = Exit::new(model.depth()).unwrap();
    let logits = model.sub_model(&tokens.reshape([1, 9]), exit).unwrap();
    logits.try_into_vec_as().unwrap()
}

fn expected(folder: &Path) -> Vec<f32> {
    let bytes = fs::read(folder.join("expected.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let data = tensors.tensor("logits").unwrap().data().to_vec();
    let (numbers, _) = data.as_chunks::<4>();
    numbers
        .iter()
        .map(|four| f32::from_le_bytes(*four))
        .collect()
}

#[track_caller]
fn assert_near(found: &[f32], wanted: &[f32]) {
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(wanted) {
        assert!((found - wanted).abs() < 3e-5, "{found} is not {wanted}");
    }
}

fn copy_of(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixture(name), folder.path());
    folder
}

fn copy(source: &Path, target: &Path) {
    fs::create_dir_all(target).unwrap();
    for entry in fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, target.join(path.file_name().unwrap())).unwrap();
    }
}

/// Renames the tensors of a folder; those renamed to "" are left out.
fn rename(folder: &Path, name: impl Fn(&str) -> String) {
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let renamed = tensors.iter().map(|(old, tensor)| (name(old), tensor));
    let kept: Vec<_> = renamed.filter(|(name, _)| !name.is_empty()).collect();
    fs::write(&path, safetensors::serialize(kept, None).unwrap()).unwrap();
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

#[test]
fn adapters_of_every_kind_say_what_they_say_in_peft() {
    for kind in [
        "rank_stabilised",
        "patterns",
        "whole_head",
        "embedding",
        "head",
        "whole_parts",
        "tied_embedding",
        "tied_whole_embedding",
    ] {
        let adapter = fixture("variants").join(kind);
        let wanted = expected(&adapter);
        let base_name = match kind.starts_with("tied") {
            true => "tied_gqa_llama3",
            false => "untied_mha",
        };
        let model = load(&fixture(base_name));
        let merged = model
            .with_adapter(&Adapter::load(&adapter).unwrap())
            .unwrap()
            .merged();
        assert_near(&logits(&merged), &wanted);

        // In a subfolder of its base, beside the files of its base, and alone.
        let base = copy_of(base_name);
        copy(&adapter, &base.path().join("adapter"));
        assert_near(&logits(&load(base.path())), &wanted);
        let beside = copy_of(base_name);
        copy(&adapter, beside.path());
        assert_near(&logits(&load(beside.path())), &wanted);
        let alone = tempfile::tempdir().unwrap();
        copy(&adapter, alone.path());
        edit_json(&alone.path().join("adapter_config.json"), |config| {
            config["base_model_name_or_path"] = json!(fixture(base_name));
        });
        assert_near(&logits(&load(alone.path())), &wanted);

        // Saving the adapter again preserves it.
        let read = Adapter::load(&adapter).unwrap();
        let again = base.path().join("again");
        read.save(&again, None).unwrap();
        let model = load(&fixture(base_name));
        let merged = model
            .with_adapter(&Adapter::load(&again).unwrap())
            .unwrap()
            .merged();
        assert_near(&logits(&merged), &wanted);
    }
}

/// LoRA may be trained on a base that is an adapter itself: adapters are merged in order.
#[test]
fn an_adapter_may_be_for_an_adapter() {
    let [first, second] =
        ["rank_stabilised", "patterns"].map(|kind| fixture("variants").join(kind));
    let folders = tempfile::tempdir().unwrap();
    let [one, two] = ["one", "two"].map(|name| folders.path().join(name));
    let based_on = |folder: &Path, base: &Path| {
        edit_json(&folder.join("adapter_config.json"), |config| {
            config["base_model_name_or_path"] = json!(base);
        });
    };
    copy(&first, &one);
    copy(&second, &two);
    based_on(&one, &fixture("untied_mha"));
    based_on(&two, &one);
    let merged = |model: Llama, adapter: &Path| {
        let adapter = Adapter::load(adapter).unwrap();
        model.with_adapter(&adapter).unwrap().merged()
    };
    let wanted = merged(merged(load(&fixture("untied_mha")), &first), &second);
    assert_eq!(logits(&load(&two)), logits(&wanted));
    based_on(&one, &two);
    let error = Llama::from_pretrained(&two, &device("cpu").unwrap()).unwrap_err();
    assert!(
        error.to_string().contains("is a PEFT adapter, not a model"),
        "{error}"
    );
}

#[test]
fn configurations_that_contradict_an_adapter_are_refused() {
    for (key, value, part) in [
        ("use_rslora", json!("true"), "expected true or false"),
        (
            "alpha_pattern",
            json!([7]),
            "numbers by the ends of module names",
        ),
        (
            "modules_to_save",
            json!("lm_head"),
            "an array of module names",
        ),
        (
            "r",
            json!(8),
            "of rank 3: r and rank_pattern of the configuration say 8",
        ),
    ] {
        let adapter = copy_of("variants/patterns");
        edit_json(&adapter.path().join("adapter_config.json"), |config| {
            config[key] = value;
        });
        let error = Adapter::load(adapter.path()).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn an_adapter_whose_base_is_not_here_asks_for_it() {
    let alone = tempfile::tempdir().unwrap();
    copy(&fixture("variants/patterns"), alone.path());
    let error = Llama::from_pretrained(alone.path(), &device("cpu").unwrap()).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("is a PEFT adapter, not a model"), "{error}");
    assert!(error.contains("its base model untied_mha"), "{error}");
}

#[test]
fn a_head_that_differs_from_the_embedding_it_should_be_is_kept() {
    let folder = fixture("variants/head_differs");
    assert!(LlamaConfig::load(&folder).unwrap().tied);
    let model = load(&folder);
    assert!(!model.config().tied);
    let found = logits(&model);
    assert_near(&found, &expected(&folder));
    let saved = tempfile::tempdir().unwrap();
    let saved = saved.path().join("model");
    model
        .save_pretrained(&saved, &SaveOptions::default())
        .unwrap();
    assert!(!LlamaConfig::load(&saved).unwrap().tied);
    assert_eq!(logits(&load(&saved)), found);
}

/// A fixture in shards as a single file.
fn joined(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = load(&fixture(name));
    let path = folder.path().join("model");
    model
        .save_pretrained(&path, &SaveOptions::default())
        .unwrap();
    copy(&path, folder.path());
    folder
}

#[test]
fn a_tied_model_may_be_saved_by_its_head_alone_or_twice() {
    let wanted = logits(&load(&fixture("tied_gqa_llama3")));
    let folder = joined("tied_gqa_llama3");
    let embedding = "model.embed_tokens.weight";
    rename(folder.path(), |name| {
        name.replace(embedding, "lm_head.weight")
    });
    let model = load(folder.path());
    assert!(model.config().tied);
    assert_eq!(logits(&model), wanted);

    let bytes = fs::read(folder.path().join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let head = tensors.tensor("lm_head.weight").unwrap();
    let twice = tensors.iter().chain([(embedding, head)]);
    let twice: Vec<_> = twice.collect();
    fs::write(
        folder.path().join("model.safetensors"),
        safetensors::serialize(twice, None).unwrap(),
    )
    .unwrap();
    let model = load(folder.path());
    assert!(model.config().tied);
    assert_eq!(logits(&model), wanted);
}

#[test]
fn what_wrappers_put_in_front_of_names_is_taken_off() {
    let wanted = logits(&load(&fixture("untied_mha")));
    for wrapped in [
        |name: &str| format!("_orig_mod.{name}"),
        |name: &str| format!("module._orig_mod.{name}"),
        |name: &str| format!("model.{name}"),
        |name: &str| name.replace("layers.1.", "layers.1._orig_mod."),
        |name: &str| name.strip_prefix("model.").unwrap_or(name).to_owned(),
    ] {
        let folder = copy_of("untied_mha");
        rename(folder.path(), wrapped);
        assert_eq!(
            logits(&load(folder.path())),
            wanted,
            "{}",
            wrapped("model.norm.weight")
        );
    }
    // Two tensors of the same name without wrappers are refused.
    let folder = copy_of("untied_mha");
    rename(folder.path(), |name| match name {
        "lm_head.weight" => "_orig_mod.model.norm.weight".to_owned(),
        name => name.to_owned(),
    });
    let error = Llama::from_pretrained(folder.path(), &device("cpu").unwrap()).unwrap_err();
    assert!(
        error.to_string().contains("are both model.norm.weight"),
        "{error}"
    );
}

#[test]
fn an_index_may_name_rotary_tables_that_nobody_kept() {
    let folder = copy_of("tied_gqa_llama3");
    edit_json(
        &folder.path().join("model.safetensors.index.json"),
        |index| {
            index["weight_map"]["model.layers.0.self_attn.rotary_emb.inv_freq"] =
                json!("model-00001-of-00003.safetensors");
        },
    );
    assert_eq!(
        logits(&load(folder.path())),
        logits(&load(&fixture("tied_gqa_llama3")))
    );
}

#[test]
fn a_context_of_millions_costs_nothing() {
    let folder = copy_of("untied_mha");
    edit_json(&folder.path().join("config.json"), |config| {
        config["max_position_embeddings"] = json!(4_194_304);
    });
    assert_eq!(
        logits(&load(folder.path())),
        logits(&load(&fixture("untied_mha")))
    );
}
