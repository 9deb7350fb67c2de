//! Conversations have the same form in training and decoding: from rows to answers, and
//! `soft chat`.

mod programs;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use programs::{soft, tiny_llama};
use serde_json::{Value, json};

const QUESTIONS: [(&str, &str); 3] = [
    ("question : where is pia", "bread ."),
    ("question : who is kato", "a baker ."),
    ("question : what is soup", "kale ."),
];

const FOR_TOOLS: &str = "additional_chat_templates/tool_use.jinja";

/// A copy of the quickstart's model, with this chat template, for tools too.
fn model(root: &Path, template: Option<&str>) -> PathBuf {
    let folder = root.join("base");
    fs::create_dir(&folder).unwrap();
    for file in fs::read_dir(tiny_llama()).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.join(file.file_name())).unwrap();
    }
    if let Some(template) = template {
        fs::write(folder.join("chat_template.jinja"), template).unwrap();
        fs::create_dir(folder.join("additional_chat_templates")).unwrap();
        fs::write(folder.join(FOR_TOOLS), template).unwrap();
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
        // The templates, the default one too, are saved with the model and with its checkpoints.
        for folder in ["model", "checkpoints/step-000040"] {
            let folder = out.join(folder);
            assert!(folder.join("chat_template.jinja").exists());
            assert_eq!(folder.join(FOR_TOOLS).exists(), template.is_some());
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

/// The output of `soft chat` for these lines of input.
fn chat(model: &Path, arguments: &[&str], lines: &str) -> Output {
    let mut command = soft("chat");
    command.arg("--model").arg(model).args(arguments);
    command.env_remove("RUST_BACKTRACE");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The lines fit into the pipe's buffer.
    child
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

/// Writes every message after its role, so that a reply depends on all earlier turns.
const ROLES: &str =
    "{% for m in messages %}{{ m.role + ' : ' + m.content + ' ' }}{% endfor %}{{ 'answer : ' }}";

#[test]
fn a_conversation_keeps_its_turns_until_it_is_reset() {
    let root = tempfile::tempdir().unwrap();
    let model = model(root.path(), Some(ROLES));
    let (first, second) = ("question : where is pia", "question : what is soup");
    let short = ["--max-new-tokens", "8"];
    let replies = |arguments: &[&str], lines: &[&str]| {
        let arguments = [&short[..], arguments].concat();
        let output = chat(&model, &arguments, &lines.join("\n"));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{error}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let found = replies(
        &[],
        &[first, second, "/reset", second, "", first, "/exit", first],
    );
    assert_eq!(found.len(), 4, "{found:?}");
    // The whole conversation as `soft generate` renders it from a file.
    let turn = |role: &str, text: &str| json!({"role": role, "content": text});
    let generated = |messages: Vec<Value>| {
        let path = root.path().join("prompts.jsonl");
        fs::write(&path, json!({ "messages": messages }).to_string()).unwrap();
        let arguments = [&short[..], &["--json"]].concat();
        let paths = [("--model", model.as_path()), ("--prompts", path.as_path())];
        let output = run("generate", &arguments, &paths);
        let line = String::from_utf8(output.stdout).unwrap();
        let line: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
        line["text"].as_str().unwrap().trim().to_owned()
    };
    let [one, two] = [first, second].map(|text| turn("user", text));
    assert_eq!(found[0].trim(), generated(vec![one.clone()]));
    let reply = turn("assistant", found[0].trim());
    assert_eq!(
        found[1].trim(),
        generated(vec![one.clone(), reply, two.clone()])
    );
    assert_eq!(found[2].trim(), generated(vec![two.clone()]));
    let reply = turn("assistant", found[2].trim());
    assert_eq!(found[3].trim(), generated(vec![two, reply, one.clone()]));

    let system = turn("system", "the question is");
    let found = replies(&["--system", "the question is"], &[first]);
    assert_eq!(found[0].trim(), generated(vec![system, one]));
}

#[test]
fn a_conversation_beyond_the_context_ends_in_one_error() {
    let root = tempfile::tempdir().unwrap();
    let model = model(root.path(), Some(ROLES));
    let lines = "question : where is pia\n".repeat(40);
    let output = chat(&model, &["--max-new-tokens", "8", "--ignore-eos"], &lines);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{error}");
    assert_eq!(error.matches("Error: ").count(), 1, "{error}");
    assert!(error.contains("the model's context holds 128"), "{error}");
    assert!(!error.contains("panicked"), "{error}");
}
