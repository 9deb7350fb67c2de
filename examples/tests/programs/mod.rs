//! The programs under test, and the model and rows they run on.

#![allow(dead_code)] // no test file uses all of it

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A subcommand of `soft`.
pub fn soft(subcommand: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_soft"));
    command.arg(subcommand);
    command
}

/// The example `name`, which must have been built.
pub fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    Command::new(profile.join("examples").join(name))
}

/// `soft finetune` on the quickstart's model, without the remaining arguments.
pub fn finetune(data: &Path, out: &Path) -> Command {
    let mut command = soft("finetune");
    command.arg("--model").arg(tiny_llama());
    command.arg("--data").arg(data).arg("--out").arg(out);
    command
}

/// The committed model of the quickstart.
pub fn tiny_llama() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tiny-llama")
}

/// Forty rows of words in the quickstart's vocabulary.
pub fn write_rows(path: &Path) {
    let people = ["mira", "taro", "lena", "ivo"];
    let row = |index: usize| {
        let (a, b) = (people[index % 4], people[index / 4 % 4]);
        serde_json::json!({ "prompt": format!("question : {a} {b} ? answer :"), "response": format!(" {b} {a} .") })
    };
    let rows: Vec<String> = (0..40).map(|index| row(index).to_string()).collect();
    fs::write(path, rows.join("\n")).unwrap();
}

/// All losses in the log of a run, training and validation.
pub fn losses(out: &Path) -> Vec<f64> {
    let log = fs::read_to_string(out.join("log.jsonl")).unwrap();
    let of_line = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let entry = line.as_object().unwrap().values().next().unwrap().clone();
        let exits = entry["exits"].as_array().unwrap().clone();
        exits.into_iter().map(|exit| exit["loss"].as_f64().unwrap())
    };
    log.lines().flat_map(of_line).collect()
}
