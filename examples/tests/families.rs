//! Every family of LLaMA-shaped models goes through training, evaluation, decoding and `verify`.

#![allow(clippy::unwrap_used)] // tests fail by panicking

mod programs;

use std::path::{Path, PathBuf};
use std::process::Command;

use programs::{soft, tiny_llama, write_rows};
use serde_json::Value;
use soft_burn::{Architecture, Llama, LlamaConfig, ModelType, SaveOptions, SlidingWindow, device};

/// A model of three blocks with random weights and the quickstart's tokenizer.
fn write_model(folder: &Path, architecture: Architecture) {
    let config = LlamaConfig {
        architecture,
        n_layers: 3,
        ..LlamaConfig::load(&tiny_llama()).unwrap()
    };
    let model = Llama::random(config, 5, &device("cpu").unwrap()).unwrap();
    let options = SaveOptions {
        companions: Some(&tiny_llama()),
        ..SaveOptions::default()
    };
    model.save_pretrained(folder, &options).unwrap();
}

fn families() -> [Architecture; 3] {
    let window = |first_block| {
        Some(SlidingWindow {
            size: 8,
            first_block,
        })
    };
    [
        Architecture {
            model_type: ModelType::Mistral,
            window: window(0),
            ..Architecture::default()
        },
        Architecture {
            model_type: ModelType::Qwen2,
            qkv_bias: true,
            window: window(1),
            ..Architecture::default()
        },
        Architecture {
            model_type: ModelType::Qwen3,
            qk_norm: true,
            ..Architecture::default()
        },
    ]
}

#[track_caller]
fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{command:?}: {text}{error}");
    text
}

fn train(root: &Path, model: &Path, arguments: &[&str]) -> PathBuf {
    let rows = root.join("rows.jsonl");
    write_rows(&rows);
    let out = root.join(format!("run{}", arguments.len()));
    let mut command = soft("finetune");
    command.arg("--model").arg(model).arg("--data").arg(rows);
    command.args(["--format", "jsonl", "--exits", "1,2,3", "--steps", "3"]);
    command.args(["--batch", "4", "--accumulation", "1", "--validation", "4"]);
    succeeds(command.arg("--out").arg(&out).args(arguments));
    out.join("model")
}

#[test]
fn every_family_is_trained_evaluated_decoded_and_verified() {
    for architecture in families() {
        let root = tempfile::tempdir().unwrap();
        let base = root.path().join("base");
        write_model(&base, architecture);
        for method in [
            &["--method", "soft", "--lr", "1e-3"][..],
            &["--method", "balcony", "--train-body"],
            &["--lora", "2"],
        ] {
            let trained = train(root.path(), &base, method);
            assert_eq!(
                LlamaConfig::load(&trained).unwrap().architecture,
                architecture
            );
            let of_model = |subcommand: &str| {
                let mut command = soft(subcommand);
                command.arg("--model").arg(&trained);
                command
            };
            let rows = root.path().join("rows.jsonl");
            succeeds(
                of_model("evaluate")
                    .arg("--data")
                    .arg(&rows)
                    .args(["--format", "jsonl"]),
            );
            let prompt = ["--prompt", "question : mira taro ? answer :"];
            let answer = of_model("generate")
                .args(prompt)
                .args(["--mode", "auto", "--json", "--ignore-eos"])
                .args(["--max-new-tokens", "24"])
                .output()
                .unwrap();
            let lines = String::from_utf8(answer.stdout).unwrap();
            let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
            assert_eq!(first["tokens"].as_array().unwrap().len(), 24, "{first}");
            let verified = succeeds(of_model("verify").args(prompt));
            assert!(verified.contains(" 0 different"), "{verified}");
        }
    }
}
