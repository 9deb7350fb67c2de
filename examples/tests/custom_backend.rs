//! The implementation of soft-core's traits on candle obeys their laws and agrees with that on
//! Burn.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test's way to fail

mod programs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use programs::{example, tiny_llama};

fn run(model: &Path, arguments: &[&str]) -> Output {
    let mut command = example("custom_backend");
    command.arg(model).args(arguments).output().unwrap()
}

fn succeeds(model: &Path) -> String {
    let output = run(model, &[]);
    let (out, err) = (output.stdout, output.stderr);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&err));
    String::from_utf8(out).unwrap()
}

fn refused(model: &Path, arguments: &[&str], parts: &[&str]) {
    let output = run(model, arguments);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    for part in parts {
        assert!(error.contains(part), "no {part:?} in {error}");
    }
}

/// With grouped queries, rotary scaling and tied or untied heads.
#[test]
fn candle_is_burn() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../soft-burn/tests/fixtures");
    let folders: [PathBuf; 4] = [
        tiny_llama(),
        fixtures.join("untied_mha"),
        fixtures.join("tied_gqa_llama3"),
        fixtures.join("odd_head_dim"),
    ];
    for folder in folders {
        let text = succeeds(&folder);
        for part in [
            "laws of a nested model",
            "laws of decoding",
            "speculative",
            "in step 10",
        ] {
            assert!(text.contains(part), "{}: {text}", folder.display());
        }
    }
}

#[test]
fn what_it_cannot_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    refused(folder.path(), &[], &["config.json", "No such file"]);
    refused(
        &tiny_llama(),
        &["--exits", "2,4"],
        &["it is 4, the model has 8 blocks"],
    );

    let config = fs::read_to_string(tiny_llama().join("config.json")).unwrap();
    let other = config.replace("\"llama\"", "\"mistral\"");
    fs::write(folder.path().join("config.json"), other).unwrap();
    refused(folder.path(), &[], &["model_type is \"mistral\""]);

    fs::write(folder.path().join("config.json"), &config).unwrap();
    fs::write(folder.path().join("exit_heads.safetensors"), "").unwrap();
    refused(folder.path(), &[], &["exit_heads.safetensors"]);
}
