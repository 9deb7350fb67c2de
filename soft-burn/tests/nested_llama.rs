//! Balcony's published form: what is read, what is written, what is refused.

#![allow(clippy::unwrap_used)] // tests fail by panicking

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::{Value, json};
use soft_burn::burn::tensor::{Int, Tensor};
use soft_burn::{Llama, LlamaConfig, SaveOptions, SoftInfo, device};
use soft_core::{DecodeSettings, Decoder, Exit, Mode, NestedModel, Prompt};

const VARIANTS: [&str; 5] = [
    "decoder_layer",
    "own_heads",
    "norm_only",
    "attention",
    "mlp",
];

fn fixture(variant: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    fixtures.join("nested").join(variant)
}

fn load(folder: &Path) -> Llama {
    Llama::from_pretrained(folder, &device("cpu").unwrap()).unwrap()
}

/// Names, shapes and bytes of the tensors of a folder.
fn tensors(folder: &Path) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |(name, it): (String, safetensors::tensor::TensorView)| {
        (name, (it.shape().to_vec(), it.data().to_vec()))
    };
    file.tensors().into_iter().map(tensor).collect()
}

/// The expected logits of every exit and the ids they are for.
fn expected(variant: &str) -> (Vec<i64>, BTreeMap<usize, Vec<f32>>) {
    let bytes = fs::read(fixture(variant).join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (mut ids, mut logits) = (Vec::new(), BTreeMap::new());
    for (name, tensor) in file.tensors() {
        match name.strip_prefix("logits.exit_") {
            Some(depth) => {
                let (values, _) = tensor.data().as_chunks::<4>();
                let values = values.iter().map(|four| f32::from_le_bytes(*four));
                logits.insert(depth.parse().unwrap(), values.collect());
            }
            None => {
                let (values, _) = tensor.data().as_chunks::<8>();
                ids = values
                    .iter()
                    .map(|eight| i64::from_le_bytes(*eight))
                    .collect();
            }
        }
    }
    (ids, logits)
}

fn check_logits(model: &Llama, variant: &str) {
    let (ids, logits) = expected(variant);
    let tokens = Tensor::<1, Int>::from_data(ids.as_slice(), &model.device());
    let tokens = tokens.reshape([2, 9]);
    assert!(logits.len() > 1);
    for (depth, wanted) in logits {
        let found = model.sub_model(&tokens, Exit::new(depth).unwrap()).unwrap();
        let found: Vec<f32> = found.try_into_vec_as().unwrap();
        assert_eq!(found.len(), wanted.len());
        let apart = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs());
        let apart = apart.fold(0.0, f32::max);
        assert!(apart < 1e-4, "{variant}, exit {depth}: {apart}");
    }
}

#[test]
fn logits_at_every_exit() {
    for variant in VARIANTS {
        let folder = fixture(variant);
        let model = load(&folder);
        check_logits(&model, variant);
        // The exits are those of config.json, with the full depth.
        let exits = SoftInfo::load(&folder).unwrap().unwrap().exits;
        assert_eq!(exits.len(), expected(variant).1.len());
    }
}

/// In Balcony's form and in ours.
#[test]
fn what_is_saved_reads_back() {
    let root = tempfile::tempdir().unwrap();
    for variant in VARIANTS {
        let model = load(&fixture(variant));
        let nested = root.path().join(format!("{variant}-nested"));
        let options = SaveOptions {
            nested_llama: true,
            ..SaveOptions::default()
        };
        model.save_pretrained(&nested, &options).unwrap();
        // Exits are written shallowest first; those of this variant are not.
        if variant != "own_heads" {
            assert_eq!(tensors(&nested), tensors(&fixture(variant)), "{variant}");
        }
        check_logits(&load(&nested), variant);
        let again = root.path().join(format!("{variant}-again"));
        load(&nested).save_pretrained(&again, &options).unwrap();
        assert_eq!(tensors(&again), tensors(&nested));

        let ours = root.path().join(format!("{variant}-ours"));
        let soft = SoftInfo::load(fixture(variant)).unwrap();
        let options = SaveOptions {
            soft: soft.as_ref(),
            ..SaveOptions::default()
        };
        load(&nested).save_pretrained(&ours, &options).unwrap();
        check_logits(&load(&ours), variant);
        let config = fs::read_to_string(ours.join("config.json")).unwrap();
        assert!(
            config.contains("LlamaForCausalLM") && !config.contains("exit_"),
            "{config}"
        );
        assert!(LlamaConfig::load(&ours).is_ok());
    }
}

/// Extracted models are saved and loaded. Half a block makes no model.
#[test]
fn every_exit_decodes_as_its_extract() {
    let root = tempfile::tempdir().unwrap();
    let mut extracted = 0;
    for variant in VARIANTS {
        let model = load(&fixture(variant));
        let prompts: Vec<Prompt> = [vec![1, 2, 3], vec![7]].map(Prompt::from).into();
        let decode = |model: &Llama, depth| {
            let mode = Mode::Static(Exit::new(depth).unwrap());
            let decoder = Decoder::new(model, &prompts, DecodeSettings::greedy(mode, 12));
            decoder.unwrap().answers().unwrap()
        };
        for (depth, _) in expected(variant).1 {
            let part = model.clone().extract(Exit::new(depth).unwrap());
            if depth < 4 && ["attention", "mlp"].contains(&variant) {
                let message = part.unwrap_err().to_string();
                assert!(message.contains("half a block"), "{message}");
                continue;
            }
            let folder = root.path().join(format!("{variant}-{depth}"));
            let saved = part
                .unwrap()
                .save_pretrained(&folder, &SaveOptions::default());
            saved.unwrap();
            let part = load(&folder);
            assert_eq!(
                decode(&model, depth),
                decode(&part, part.depth()),
                "{variant}"
            );
            extracted += 1;
        }
    }
    assert_eq!(extracted, 11);
}

fn edited(variant: &str, edit: impl FnOnce(&mut Value)) -> String {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(variant)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    edit(&mut config);
    fs::write(&path, config.to_string()).unwrap();
    let loaded = Llama::from_pretrained(folder.path(), &device("cpu").unwrap());
    loaded.unwrap_err().to_string()
}

#[test]
fn contradictions_are_named() {
    let both = edited("mlp", |config| config["exit_attention"] = json!(true));
    assert!(
        both.contains("exit_attention") && both.contains("exit_mlp too"),
        "{both}"
    );
    for exits in [
        json!([0]),
        json!([4]),
        json!([2, 2]),
        json!([]),
        Value::Null,
    ] {
        let message = edited("mlp", |config| config["exit_layer_indices"] = exits);
        assert!(message.contains("exit_layer_indices"), "{message}");
    }
    let missing = edited("mlp", |config| config["exit_layer_indices"] = json!([2, 3]));
    assert!(missing.contains("model.exit_modules.1.0."), "{missing}");
    let unexpected = edited("own_heads", |config| {
        config["tie_exit_lm_head"] = json!(true)
    });
    assert!(
        unexpected.contains("exit_modules.0.2.weight"),
        "{unexpected}"
    );
}

#[test]
fn exits_are_in_one_place() {
    let model = load(&fixture("decoder_layer"));
    let root = tempfile::tempdir().unwrap();
    let [ours, nested] = ["ours", "nested"].map(|name| root.path().join(name));
    model
        .save_pretrained(&ours, &SaveOptions::default())
        .unwrap();
    let options = SaveOptions {
        nested_llama: true,
        ..SaveOptions::default()
    };
    model.save_pretrained(&nested, &options).unwrap();
    let file = "exit_blocks.safetensors";
    fs::copy(ours.join(file), nested.join(file)).unwrap();
    let error = Llama::from_pretrained(&nested, &device("cpu").unwrap()).unwrap_err();
    assert!(error.to_string().contains(file), "{error}");
}

#[test]
fn a_model_without_exit_blocks_has_no_such_form() {
    let model = load(&fixture("mlp"))
        .extract(Exit::new(4).unwrap())
        .unwrap();
    let options = SaveOptions {
        nested_llama: true,
        ..SaveOptions::default()
    };
    let root = tempfile::tempdir().unwrap();
    let error = model.save_pretrained(root.path().join("out"), &options);
    let message = error.unwrap_err().to_string();
    assert!(message.contains("nested_llama"), "{message}");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}
