//! `soft lm-eval`: scores that follow from the model's own logits, and files as the harness writes
//! them. `soft-eval/tests/lm_eval/compare.py` compares with the harness itself.

#![allow(clippy::unwrap_used)] // tests fail by panicking

mod programs;

use std::fs;
use std::path::{Path, PathBuf};

use programs::{soft, tiny_llama};
use serde_json::Value;
use soft_burn::{Llama, device};
use soft_core::model::Head;
use soft_core::{DecodeModel, Exit, NestedModel};
use soft_data::Tokenizer;

const ROWS: &str = r#"{"goal": "repeat the words soup kale .", "sol1": "soup kale", "sol2": "egg", "label": 0}
{"goal": "repeat the words honey .", "sol1": "toast", "sol2": "honey", "label": 1}
{"goal": "repeat the words lemon .", "sol1": "toast", "sol2": "lemon", "label": 1}
"#;

#[track_caller]
fn run(task: &str, data: &Path, more: &[&str]) -> Result<String, String> {
    let mut command = soft("lm-eval");
    command
        .arg("--model")
        .arg(tiny_llama())
        .args(["--task", task]);
    command.arg("--data").arg(data).args(more);
    let output = command.env_remove("RUST_BACKTRACE").output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(error),
    }
}

fn file(folder: &Path, prefix: &str) -> String {
    let files = fs::read_dir(folder).unwrap();
    let paths: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    let named = |path: &&PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with(prefix)
    };
    fs::read_to_string(paths.iter().find(named).unwrap()).unwrap()
}

/// Log-likelihood of a continuation at an exit, token by token.
fn log_likelihood(exit: usize, context: &str, continuation: &str) -> f64 {
    let model = Llama::from_pretrained(tiny_llama(), &device("cpu").unwrap()).unwrap();
    let tokenizer = Tokenizer::from_folder(tiny_llama(), model.config().vocab).unwrap();
    let given = tokenizer.encode_start(context).unwrap().len();
    let tokens = tokenizer
        .encode_start(&format!("{context}{continuation}"))
        .unwrap();
    let hidden = model.embed(&model.tokens(std::slice::from_ref(&tokens)).unwrap());
    let hidden = model.blocks(hidden.unwrap(), 0..exit, None).unwrap();
    let head = Head::Full(Exit::new(exit).unwrap());
    let rows = model.logit_rows(&hidden, head).unwrap();
    let nats = (given..tokens.len()).map(|at| {
        let row = &rows[at - 1];
        let sum: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
        f64::from(row[tokens[at] as usize]) - sum.ln()
    });
    nats.sum()
}

#[test]
fn choices_are_scored_by_likelihood_at_every_exit() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("piqa.jsonl");
    fs::write(&data, ROWS).unwrap();
    let out = root.path().join("out");
    let more = [
        "--exits",
        "4,8",
        "--out",
        out.to_str().unwrap(),
        "--limit",
        "2",
    ];
    let text = run("piqa", &data, &more).unwrap();
    assert!(
        text.contains("acc_norm") && text.contains("2 of 3 rows"),
        "{text}"
    );
    for exit in [4, 8] {
        let folder = out.join(format!("exit_{exit}"));
        let samples = file(&folder, "samples_piqa_");
        let samples = samples
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        let samples: Vec<Value> = samples.collect();
        assert_eq!(samples.len(), 2);
        let mut right = 0.0;
        for (sample, label) in samples.iter().zip([0, 1]) {
            let nats = [0, 1].map(|choice| {
                let call = &sample["arguments"][format!("gen_args_{choice}")];
                let (context, continuation) = (&call["arg_0"], &call["arg_1"]);
                let wanted = log_likelihood(
                    exit,
                    context.as_str().unwrap(),
                    continuation.as_str().unwrap(),
                );
                let found = sample["filtered_resps"][choice][0].as_str().unwrap();
                let found: f64 = found.parse().unwrap();
                assert!((found - wanted).abs() < 1e-3, "{found} {wanted}");
                found
            });
            let accurate = f64::from(u8::from((nats[1] > nats[0]) == (label == 1)));
            assert_eq!(sample["acc"], accurate);
            right += accurate;
        }
        let results: Value = serde_json::from_str(&file(&folder, "results_")).unwrap();
        assert_eq!(results["results"]["piqa"]["acc,none"], right / 2.0);
        assert_eq!(results["n-samples"]["piqa"]["original"], 3);
    }
    let again = run("piqa", &data, &more).unwrap_err();
    assert!(again.contains("is there already"), "{again}");
}

#[test]
fn bad_input_is_named() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("rows.jsonl");
    fs::write(&data, ROWS).unwrap();
    for (task, more, part) in [
        ("arc_easy", &[][..], "line 1: expected `question`"),
        ("mmlu", &[], "hellaswag"),
        ("piqa", &["--exits", "4,9"], "9"),
        ("piqa", &["--batch", "0"], "--batch is 0"),
        ("piqa", &["--limit", "0"], "--limit is 0"),
    ] {
        let error = run(task, &data, more).unwrap_err();
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
    // Answers have up to 256 tokens, which this model's context does not hold.
    fs::write(
        &data,
        r#"{"question": "who", "answer": {"aliases": ["mira"]}}"#,
    )
    .unwrap();
    let error = run("triviaqa", &data, &[]).unwrap_err();
    assert!(error.contains("no room for 256 new ones"), "{error}");
}
