//! `soft generate` and `soft verify`: exact modes give the same text, and invalid input gives one
//! clear error.

mod programs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use programs::{soft, tiny_llama};
use serde_json::Value;

const PROMPT: &str = "question : repeat the words soup kale carrot honey . answer :";

fn generate(model: &Path, arguments: &[&str]) -> Output {
    let mut command: Command = soft("generate");
    command.arg("--model").arg(model).args(arguments);
    command.env_remove("RUST_BACKTRACE").output().unwrap()
}

/// The JSON lines of a command that must succeed.
#[track_caller]
fn lines(arguments: &[&str]) -> Vec<Value> {
    let output = generate(&tiny_llama(), &[arguments, &["--json"]].concat());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{arguments:?}: {error}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[track_caller]
fn refused(model: &Path, arguments: &[&str], parts: &[&str]) {
    let output = generate(model, arguments);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{arguments:?} was accepted");
    assert!(!error.contains("panicked"), "{error}");
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

fn prompts_file(folder: &Path, content: &str) -> String {
    let path = folder.join("prompts.jsonl");
    fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

fn with_template(root: &Path, template: &str) -> PathBuf {
    let folder = root.join("chatty");
    fs::create_dir_all(&folder).unwrap();
    for file in fs::read_dir(tiny_llama()).unwrap() {
        let path = file.unwrap().path();
        fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
    }
    fs::write(folder.join("chat_template.jinja"), template).unwrap();
    folder
}

#[test]
fn speculation_says_what_the_full_model_says_alone_and_in_batches() {
    let root = tempfile::tempdir().unwrap();
    let lines_of = ["soup kale", "egg", "honey icing lemon toast"].map(|words| {
        format!("{{\"prompt\": \"question : repeat the words {words} . answer :\"}}\n")
    });
    let file = prompts_file(root.path(), &lines_of.concat());
    let common = ["--prompts", &file, "--max-new-tokens", "20", "--ignore-eos"];
    let full = lines(&common);
    assert_eq!(full.len(), 4, "three answers and the statistics");
    for mode in [
        vec!["--mode", "speculative=2", "--draft-length", "3"],
        vec![
            "--mode",
            "speculative=4",
            "--draft-length",
            "confident=0.6",
            "--batch",
            "3",
        ],
        vec![
            "--mode",
            "speculative=dynamic",
            "--exits",
            "2,4,6,8",
            "--thresholds",
            "0.4",
        ],
        vec!["--mode", "auto", "--exits", "2,4,6,8", "--batch", "2"],
        vec!["--mode", "dynamic", "--exits", "2,4,8", "--thresholds", "1"],
        vec!["--batch", "3"],
    ] {
        let found = lines(&[common.as_slice(), &mode].concat());
        for (found, full) in found.iter().zip(&full).take(3) {
            assert_eq!(found["tokens"], full["tokens"], "{mode:?}");
            assert_eq!(found["text"], full["text"], "{mode:?}");
        }
    }
}

#[test]
fn dynamic_exits_leave_early_and_are_counted() {
    let lines = lines(&[
        "--prompt",
        PROMPT,
        "--mode",
        "dynamic",
        "--exits",
        "2,4,6,8",
        "--thresholds",
        "2:0.05,4:0.05",
        "--max-new-tokens",
        "30",
        "--ignore-eos",
    ]);
    let statistics = &lines[1]["statistics"];
    let by_depth = statistics["tokens_by_depth"].as_object().unwrap();
    let tokens: u64 = by_depth.values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(tokens, 30);
    assert!(by_depth["2"].as_u64().unwrap() > 0, "{statistics}");
}

#[test]
fn samples_depend_on_the_seed_alone() {
    let sample = |seed: &str| {
        let all = lines(&[
            "--prompt",
            PROMPT,
            "--temperature",
            "1.2",
            "--top-k",
            "20",
            "--seed",
            seed,
            "--max-new-tokens",
            "24",
            "--ignore-eos",
        ]);
        all[0]["tokens"].clone()
    };
    assert_eq!(sample("3"), sample("3"));
    assert_ne!(sample("3"), sample("4"));
}

#[test]
fn a_stop_string_ends_the_answer_and_one_never_found_does_not() {
    let whole = lines(&[
        "--prompt",
        PROMPT,
        "--max-new-tokens",
        "12",
        "--ignore-eos",
        "--stop",
        "zebra",
    ]);
    assert_eq!(whole[0]["finish"], "Length");
    let text = whole[0]["text"].as_str().unwrap();
    let word = text.split_whitespace().nth(2).unwrap();
    let cut = lines(&[
        "--prompt",
        PROMPT,
        "--max-new-tokens",
        "12",
        "--ignore-eos",
        "--stop",
        word,
    ]);
    assert_eq!(cut[0]["finish"], "StopString");
    let before = text.split(word).next().unwrap();
    assert_eq!(cut[0]["text"].as_str().unwrap(), before);
}

#[test]
fn wrong_settings_are_refused() {
    let tiny = tiny_llama();
    let long = "lemon ".repeat(200);
    for (arguments, parts) in [
        (vec!["--prompt", &long], vec!["context", "128"]),
        (vec!["--prompt", ""], vec!["--prompt is empty"]),
        (vec![], vec!["--prompt"]),
        (vec!["--prompt", "a", "--mode", "exit=9"], vec!["9", "8"]),
        (vec!["--prompt", "a", "--mode", "exit=0"], vec!["exit 0"]),
        (vec!["--prompt", "a", "--mode", "speculative=8"], vec!["8"]),
        (
            vec!["--prompt", "a", "--mode", "fast"],
            vec!["fast", "speculative"],
        ),
        (vec!["--prompt", "a", "--mode", "dynamic"], vec!["--exits"]),
        (
            vec![
                "--prompt",
                "a",
                "--mode",
                "dynamic",
                "--exits",
                "2,8",
                "--thresholds=-0.5",
            ],
            vec!["-0.5", "confidence: expected 0 to 1"],
        ),
        (
            vec![
                "--prompt",
                "a",
                "--mode",
                "dynamic",
                "--exits",
                "2,8",
                "--thresholds",
                "3:0.5",
            ],
            vec!["exit 3", "2,8"],
        ),
        (
            vec!["--prompt", "a", "--mode", "dynamic", "--exits", "2,4"],
            vec!["4", "8"],
        ),
        (
            vec![
                "--prompt",
                "a",
                "--mode",
                "speculative=2",
                "--draft-length",
                "0",
            ],
            vec!["at least 1"],
        ),
        (
            vec!["--prompt", "a", "--temperature=-1"],
            vec!["temperature"],
        ),
        (
            vec!["--prompt", "a", "--temperature", "1", "--top-p", "1.5"],
            vec!["top_p"],
        ),
        (vec!["--prompt", "a", "--stop", ""], vec!["stop"]),
        (vec!["--prompt", "a", "--top-k", "5"], vec!["--temperature"]),
        (vec!["--prompt", "a", "--limit", "0"], vec!["--limit is 0"]),
        (
            vec!["--prompt", "a", "--thresholds", "0.5"],
            vec!["--thresholds does nothing in --mode full"],
        ),
        (
            vec![
                "--prompt",
                "a",
                "--mode",
                "auto",
                "--exits",
                "2,8",
                "--draft-length",
                "2",
            ],
            vec!["--draft-length does nothing in --mode auto"],
        ),
        (
            vec!["--prompt", "a", "--mode", "exit=2", "--exits", "2,8"],
            vec!["--exits does nothing in --mode exit=2"],
        ),
    ] {
        refused(&tiny, &arguments, &parts);
    }
}

#[test]
fn wrong_prompt_files_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let folder = with_template(
        root.path(),
        "{% for m in messages %}{{ m.content }}{% endfor %}",
    );
    for (content, parts) in [
        ("", vec!["at least one row"]),
        (
            "{\"prompt\": \"a\"}\n{\"prompt\": \"\"}\n",
            vec!["row 2", "empty"],
        ),
        ("{\"prompt\": \"a\"}\n{\"prompt\"", vec![".jsonl:2:"]),
        ("{\"text\": \"a\"}", vec!["row 1", "expected exactly one"]),
        (
            "{\"messages\": [{\"role\": \"robot\", \"content\": \"a\"}]}",
            vec!["robot", "user"],
        ),
        ("{\"messages\": []}", vec!["row 1", "message"]),
    ] {
        let file = prompts_file(root.path(), content);
        refused(&folder, &["--prompts", &file], &parts);
    }
}

#[test]
fn a_template_that_does_not_render_says_why() {
    let root = tempfile::tempdir().unwrap();
    let folder = with_template(root.path(), "{{ raise_exception('no users here') }}");
    refused(
        &folder,
        &["--chat", "hello"],
        &["chat_template.jinja", "no users here"],
    );
    let folder = with_template(root.path(), "{% for m in messages %}{{ m.content }}");
    refused(&folder, &["--chat", "hello"], &["chat_template.jinja"]);
}

#[test]
fn verify_finds_no_difference() {
    let root = tempfile::tempdir().unwrap();
    let lines = (0..6).map(|index| {
        let words = ["soup", "kale", "egg", "honey", "toast", "fig"][..=index].join(" ");
        format!("{{\"prompt\": \"question : put in order the words {words} . answer :\"}}\n")
    });
    let file = prompts_file(root.path(), &lines.collect::<String>());
    let output = soft("verify")
        .arg("--model")
        .arg(tiny_llama())
        .args([
            "--prompts",
            &file,
            "--exits",
            "2,4,6,8",
            "--batch",
            "4",
            "--max-new-tokens",
            "24",
        ])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("tokens compared, 0 different"), "{text}");
}
