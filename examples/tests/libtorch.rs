//! LibTorch's CPU device compared with the default one: losses of a run, tokens of every mode,
//! bf16, and devices that are refused.

mod programs;

use std::path::Path;
use std::process::Command;

use programs::{losses, write_rows};

/// The output of a command that must succeed.
#[track_caller]
fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

fn train(data: &Path, out: &Path, place: &[&str]) {
    let mut command = programs::finetune(data, out);
    command.args(["--format", "jsonl", "--exits", "2:8:2", "--lr", "1e-3"]);
    command.args(["--steps", "50", "--batch", "4", "--validation", "4"]);
    printed(command.args(place));
}

/// Largest difference of two runs' losses in nats.
fn apart(wanted: &[f64], found: &[f64]) -> f64 {
    assert_eq!(wanted.len(), found.len());
    let pairs = wanted.iter().zip(found);
    pairs
        .map(|(wanted, found)| (found - wanted).abs())
        .fold(0.0, f64::max)
}

#[test]
fn fifty_steps_and_every_mode_are_those_of_the_cpu() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("rows.jsonl");
    write_rows(&data);
    let run = |name: &str, place: &[&str]| {
        let out = root.path().join(name);
        train(&data, &out, place);
        out
    };
    let flex = run("flex", &["--device", "cpu"]);
    let torch = run("torch", &["--device", "torch-cpu"]);
    let bf16 = run("bf16", &["--device", "torch-cpu", "--dtype", "bf16"]);
    let wanted = losses(&flex);
    let difference = apart(&wanted, &losses(&torch));
    println!("50 SoFT steps: losses at most {difference:.1e} nats from flex's");
    assert!(difference < 1e-4);
    let difference = apart(&wanted, &losses(&bf16));
    println!("50 SoFT steps in bf16: losses at most {difference:.1e} nats from flex's in f32");
    assert!((1e-4..0.1).contains(&difference));

    let answer = |device: &str, mode: &[&str]| {
        let mut command = programs::soft("generate");
        command.arg("--model").arg(flex.join("model"));
        command.args(["--device", device, "--max-new-tokens", "24"]);
        command.args(["--ignore-eos", "--prompt", "question : mira ivo ? answer :"]);
        printed(command.args(mode))
    };
    let modes: [&[&str]; 6] = [
        &[],
        &["--mode", "exit=2"],
        &["--mode", "dynamic", "--thresholds", "0.5"],
        &["--mode", "dynamic:margin=2:0.3,6:0.2"],
        &["--mode", "speculative=2", "--draft-length", "3"],
        &["--mode", "speculative=dynamic"],
    ];
    for mode in modes {
        assert_eq!(answer("torch-cpu", mode), answer("cpu", mode), "{mode:?}");
    }
    assert_eq!(answer("torch-cpu", modes[4]), answer("torch-cpu", modes[0]));
}

#[test]
fn devices_that_are_not_there_are_refused() {
    let listed = printed(&mut programs::soft("devices"));
    assert!(listed.lines().any(|line| line == "torch-cpu"), "{listed}");
    let refused = |device: &str| {
        let mut command = programs::soft("generate");
        command.arg("--model").arg(programs::tiny_llama());
        let output = command
            .args(["--device", device, "--prompt", "mira"])
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let count = listed.lines().filter(|line| line.starts_with("torch-cuda"));
    let beyond = format!("torch-cuda:{}", count.count());
    let error = refused(&beyond);
    assert!(error.contains("does not exist: found"), "{error}");
    assert!(refused("torch-cpu:1").contains("expected one of"));
}
