//! Chats are asked in the form in which they were trained: the programs, from rows to answers.

mod programs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use programs::{soft, tiny_llama};
use serde_json::{Value, json};

const QUESTIONS: [(&str, &str); 3] = [
    ("question : where is pia", "bread ."),
    ("question : who is kato", "a baker ."),
    ("question : what is soup", "kale ."),
];

/// A copy of the quickstart's model, with a chat template that begins with a system turn of its
/// own.
fn model(root: &Path, template: Option<&str>) -> PathBuf {
    let folder = root.join("base");
    fs::create_dir(&folder).unwrap();
    for file in fs::read_dir(tiny_llama()).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.join(file.file_name())).unwrap();
    }
    if let Some(template) = template {
        fs::write(folder.join("chat_template.jinja"), template).unwrap();
    }
    folder
}

fn rows(root: &Path) -> PathBuf {
    let row = |(asked, answer): (&str, &str)| json!({"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]});
    let rows = QUESTIONS.map(|pair| row(pair).to_string());
    let path = root.join("rows.jsonl");
    fs::write(&path, rows.join("\n")).unwrap();
    path
}

#[track_caller]
fn run(name: &str, arguments: &[&str], paths: &[(&str, &Path)]) -> Output {
    let mut command = soft(name);
    command.args(arguments);
    for (flag, path) in paths {
        command.arg(flag).arg(path);
    }
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    output
}

/// What the trained model answers at `mode`.
fn answers(model: &Path, mode: &str) -> Vec<String> {
    let answer = |(asked, _)| {
        let arguments = [
            "--mode",
            mode,
            "--json",
            "--max-new-tokens",
            "8",
            "--chat",
            asked,
        ];
        let output = run("generate", &arguments, &[("--model", model)]);
        let line = String::from_utf8(output.stdout).unwrap();
        let line: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
        line["text"].as_str().unwrap().trim().to_owned()
    };
    QUESTIONS.map(answer).to_vec()
}

#[test]
fn what_is_learnt_from_chats_is_answered_to_chats() {
    let system = "{% for m in messages %}{% if loop.first and m.role != 'system' %}{{ 'answers the question : ' }}{% endif %}\
                  {{ m.content + ' ' }}{% if m.role == 'assistant' %}{{ eos_token }}{% else %}{{ 'answer : ' }}{% endif %}{% endfor %}";
    for template in [Some(system), None] {
        let root = tempfile::tempdir().unwrap();
        let (base, data, out) = (
            model(root.path(), template),
            rows(root.path()),
            root.path().join("out"),
        );
        let arguments = [
            "--format", "jsonl", "--exits", "4,8", "--steps", "40", "--lr", "3e-3", "--batch", "3",
        ];
        let more = [
            "--accumulation",
            "1",
            "--validation",
            "0",
            "--checkpoint-every",
            "40",
        ];
        let arguments = [&arguments[..], &more].concat();
        let output = run(
            "finetune",
            &arguments,
            &[("--model", &base), ("--data", &data), ("--out", &out)],
        );
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            said.contains("no chat template"),
            template.is_none(),
            "{said}"
        );
        let wanted = QUESTIONS.map(|(_, answer)| answer);
        for mode in ["exit=4", "full"] {
            assert_eq!(
                answers(&out.join("model"), mode),
                wanted,
                "{mode}, {template:?}"
            );
        }
        // The default goes with the model, and with its checkpoints.
        for folder in ["model", "checkpoints/step-000040"] {
            assert!(out.join(folder).join("chat_template.jinja").exists());
        }
    }
}

#[test]
fn rows_that_were_rendered_before_are_recognised() {
    let root = tempfile::tempdir().unwrap();
    let (base, data) = (model(root.path(), None), root.path().join("rows.jsonl"));
    fs::write(
        &data,
        "{\"prompt\": \"<bos> question : where <eos>\", \"response\": \"in<eos>\"}",
    )
    .unwrap();
    let arguments = [
        "--format",
        "jsonl",
        "--exits",
        "4,8",
        "--steps",
        "1",
        "--validation",
        "0",
        "--accumulation",
        "1",
    ];
    let paths = |out: &'static str| root.path().join(out);
    let (plain, tokens) = (paths("plain"), paths("tokens"));
    let output = run(
        "finetune",
        &arguments,
        &[("--model", &base), ("--data", &data), ("--out", &plain)],
    );
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("spell 3 control tokens (2 <eos>, 1 <bos>)"),
        "{said}"
    );
    assert!(said.contains("--control-tokens"), "{said}");
    let arguments = [&arguments[..], &["--control-tokens"]].concat();
    let output = run(
        "finetune",
        &arguments,
        &[("--model", &base), ("--data", &data), ("--out", &tokens)],
    );
    let said = String::from_utf8(output.stderr).unwrap();
    // <bos>, three words, <eos>; one word and one <eos>.
    assert!(said.contains("2 of 7 tokens supervised"), "{said}");
    assert!(!said.contains("warning"), "{said}");
}
