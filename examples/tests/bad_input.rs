//! Invalid input gives exit status 1 or 2 and one clear error, and neither leaves nor overwrites
//! files.

mod programs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use programs::{finetune, soft, tiny_llama};

/// Runs `soft finetune` with these arguments, which must fail with an error that has all of
/// `parts`.
#[track_caller]
fn refused(data: &Path, out: &Path, arguments: &[&str], parts: &[&str]) {
    let mut command = finetune(data, out);
    if !arguments.contains(&"--format") {
        command.args(["--format", "jsonl"]);
    }
    let output = command
        .env_remove("RUST_BACKTRACE")
        .args(["--steps", "1", "--validation", "0"])
        .args(arguments)
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{arguments:?} was accepted");
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
    assert!(!error.contains("panicked"), "{error}");
    assert!(
        !error.contains("Caused by"),
        "the reason is said twice: {error}"
    );
}

const GOOD: &str = r#"{"prompt": "question : where", "response": "in"}"#;

fn file(folder: &Path, content: &str) -> PathBuf {
    let path = folder.join("rows.jsonl");
    fs::write(&path, content).unwrap();
    path
}

#[test]
fn rows_that_are_no_rows() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    for (content, parts) in [
        (
            String::new(),
            vec!["rows.jsonl", "expected at least one row"],
        ),
        (
            format!("{GOOD}\n{{\"prompt\": "),
            vec!["rows.jsonl:2:", "malformed JSON"],
        ),
        (
            format!("{GOOD}\n{{\"prompt\": \"a\"}}"),
            vec!["rows.jsonl", "2", "response"],
        ),
        (format!("{GOOD}\n[1]"), vec!["rows.jsonl", "2"]),
    ] {
        let data = file(root.path(), &content);
        refused(&data, &out, &[], &parts);
        assert!(!out.exists());
    }
    refused(
        &root.path().join("absent.jsonl"),
        &out,
        &[],
        &["absent.jsonl"],
    );
    let data = file(root.path(), "[{\"a\": 1,\n \"b\": }]");
    refused(
        &data,
        &out,
        &["--format", "alpaca"],
        &["rows.jsonl:2:", "malformed JSON"],
    );
}

#[test]
fn exits_that_the_model_has_not() {
    let root = tempfile::tempdir().unwrap();
    let (data, out) = (file(root.path(), GOOD), root.path().join("out"));
    refused(&data, &out, &["--exits", "2,9"], &["9", "8 blocks"]);
    refused(&data, &out, &["--exits", "2,4"], &["4", "8 blocks"]);
    refused(&data, &out, &["--exits", "6,4,8"], &["increase"]);
    refused(&data, &out, &["--exits", "x"], &["x"]);
    assert!(!out.exists());
}

#[test]
fn output_that_is_there_stays() {
    let root = tempfile::tempdir().unwrap();
    let (data, out) = (file(root.path(), GOOD), root.path().join("out"));
    fs::create_dir(&out).unwrap();
    fs::write(out.join("precious"), "x").unwrap();
    refused(&data, &out, &[], &["out", "already"]);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
    refused(&data, &out, &["--resume"], &["run.json"]);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
    // A file in place of a folder cannot be written to, even by root.
    refused(&data, &out.join("precious/run"), &[], &["precious"]);
    assert_eq!(fs::read_to_string(out.join("precious")).unwrap(), "x");
}

#[test]
fn unknown_names() {
    let root = tempfile::tempdir().unwrap();
    let (data, out) = (file(root.path(), GOOD), root.path().join("out"));
    refused(&data, &out, &["--device", "tpu"], &["tpu", "cpu"]);
    refused(
        &data,
        &out,
        &["--method", "lora"],
        &["soft, sft, ict or balcony"],
    );
    refused(&data, &out, &["--format", "csv"], &["csv", "alpaca"]);
    refused(&data, &out, &["--lr", "nan"], &["learning rate"]);
}

#[test]
fn token_outside_the_vocabulary() {
    let output = soft("lens")
        .arg("--model")
        .arg(tiny_llama())
        .args(["--tokens", "1,5000"])
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(
        error.contains("5000") && error.contains("218") && error.contains("position 1"),
        "{error}"
    );
}

/// A limit of half a megabyte per file simulates a disk that fills up while a checkpoint of 3.6 MB
/// is written.
#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_leaves_no_half_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let (data, out) = (
        file(root.path(), &format!("{GOOD}\n{GOOD}")),
        root.path().join("out"),
    );
    let limited = finetune(&data, &out);
    let arguments = [
        "--format",
        "jsonl",
        "--validation",
        "0",
        "--steps",
        "2",
        "--checkpoint-every",
        "1",
    ];
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 512; exec \"$@\"", "sh"]);
    command.arg(limited.get_program()).args(limited.get_args());
    let output = command.args(arguments).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(
        error.contains("cannot write") && error.contains("model.safetensors"),
        "{error}"
    );
    let checkpoints = fs::read_dir(out.join("checkpoints")).unwrap();
    assert_eq!(
        checkpoints.count(),
        0,
        "a half-written checkpoint was left behind"
    );
    // Without the limit the run can be resumed.
    let mut again = finetune(&data, &out);
    assert!(
        again
            .args(arguments)
            .arg("--resume")
            .output()
            .unwrap()
            .status
            .success()
    );
}
