//! A folder with a model, questions and instructions, in which subcommands of `soft` run.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use serde_json::{Value, json};

use crate::programs::{soft, tiny_llama};

/// The folder.
pub struct Site {
    root: tempfile::TempDir,
}

impl Site {
    pub fn new() -> Self {
        let site = Self {
            root: tempfile::tempdir().unwrap(),
        };
        let model = site.path("model");
        fs::create_dir(&model).unwrap();
        for file in fs::read_dir(tiny_llama()).unwrap() {
            let path = file.unwrap().path();
            fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
        }
        let questions: Vec<Value> = (0..24).map(question).collect();
        site.write("trivia.json", &json!({ "Data": questions }).to_string());
        let instructions: Vec<Value> = (0..3)
            .map(|i| json!({"instruction": format!("repeat the words {}", WORDS[i]), "input": ""}))
            .collect();
        site.write("instructions.json", &json!(instructions).to_string());
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.read(name)).unwrap()
    }

    fn run(&self, subcommand: &str, arguments: &str) -> Output {
        let mut command = soft(subcommand);
        command.current_dir(self.root.path());
        command.args(arguments.split_whitespace());
        command.env_remove("RUST_BACKTRACE").output().unwrap()
    }

    #[track_caller]
    pub fn succeeds(&self, subcommand: &str, arguments: &str) -> String {
        let output = self.run(subcommand, arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{subcommand} {arguments}: {error}");
        String::from_utf8(output.stdout).unwrap() + &error
    }

    #[track_caller]
    pub fn refused(&self, subcommand: &str, arguments: &str, parts: &[&str]) {
        let output = self.run(subcommand, arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success(),
            "{subcommand} {arguments} was accepted"
        );
        assert!(!error.contains("panicked"), "{error}");
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
    }
}

const WORDS: [&str; 6] = ["soup", "kale", "carrot", "honey", "egg", "lemon"];

fn question(index: usize) -> Value {
    let (one, other) = (WORDS[index % 6], WORDS[(index + index / 6) % 6]);
    json!({
        "QuestionId": format!("q{index}"),
        "Question": format!("repeat the words {one} {other} ."),
        "Answer": {"Value": format!("{one} {other} ."), "Aliases": []},
    })
}
