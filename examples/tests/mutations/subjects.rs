//! Folders of valid files, and their readers.

use std::fs;
use std::path::{Path, PathBuf};

use soft_eval::Journal;

use crate::readers::{read_model, read_results, read_rows, read_tokenizer};
use crate::run;

/// A folder of valid files, and a function that reads it after one of them was changed.
pub struct Subject {
    pub name: &'static str,
    /// Files that are changed, below the folder.
    pub files: Vec<PathBuf>,
    pub read: fn(&Path),
}

pub fn subjects(root: &Path) -> Vec<Subject> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fixtures = manifest.join("../soft-burn/tests/fixtures");
    let tokenizers = manifest.join("../soft-data/tests/tokenizers");
    let model_files = |weights: &[&str]| {
        let mut files = vec![PathBuf::from("config.json")];
        files.extend(weights.iter().map(PathBuf::from));
        files
    };
    let folder = |name: &str, source: &Path| copy(source, &root.join(name));
    folder("single", &fixtures.join("untied_mha"));
    folder("sharded", &fixtures.join("tied_gqa_llama3"));
    folder("adapter", &fixtures.join("untied_mha"));
    folder("adapter/adapter", &fixtures.join("variants/embedding"));
    folder("family", &fixtures.join("qwen3_biases"));
    folder("windows", &fixtures.join("qwen2"));
    folder("nested", &fixtures.join("nested/own_heads"));
    for name in ["bytes", "pieces", "sentencepiece"] {
        folder(name, &tokenizers.join(name));
    }
    write(
        root,
        "bytes/chat_template.jinja",
        include_str!("../../../soft-data/tests/chat/templates/tools.jinja"),
    );
    write(
        root,
        "pieces/chat_template.jinja",
        include_str!("../../../soft-data/tests/chat/templates/headers.jinja"),
    );
    write(
        root,
        "pieces/special_tokens_map.json",
        r#"{"pad_token": {"content": "<unk>"}}"#,
    );
    write(
        root,
        "single/soft.json",
        r#"{"exits": [2, 4], "method": "soft", "calibrated": []}"#,
    );
    write(root, "single/draft_tokens.json", "[1, 2, 3]");
    let probe = serde_json::json!({"exit": 2, "bias": 0.5, "weights": vec![0.25; 16]});
    let probes = serde_json::json!([probe]).to_string();
    write(root, "single/exit_probes.json", &probes);
    rows(root);
    results(root);
    run::start(root);
    let tokenizer_files = || {
        [
            "tokenizer.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "config.json",
            "chat_template.jinja",
        ]
        .map(PathBuf::from)
        .to_vec()
    };
    let named = |names: &[&str]| names.iter().map(PathBuf::from).collect();
    vec![
        Subject {
            name: "single",
            files: model_files(&[
                "model.safetensors",
                "soft.json",
                "draft_tokens.json",
                "exit_probes.json",
            ]),
            read: read_model,
        },
        Subject {
            name: "sharded",
            files: model_files(&[
                "model.safetensors.index.json",
                "model-00002-of-00003.safetensors",
            ]),
            read: read_model,
        },
        Subject {
            name: "adapter",
            files: named(&[
                "adapter/adapter_config.json",
                "adapter/adapter_model.safetensors",
            ]),
            read: read_model,
        },
        Subject {
            name: "bytes",
            files: tokenizer_files(),
            read: read_tokenizer,
        },
        Subject {
            name: "pieces",
            files: [tokenizer_files(), named(&["special_tokens_map.json"])].concat(),
            read: read_tokenizer,
        },
        Subject {
            name: "sentencepiece",
            files: named(&["tokenizer.model", "tokenizer.model", "added_tokens.json"]),
            read: read_tokenizer,
        },
        Subject {
            name: "family",
            files: model_files(&[]),
            read: read_model,
        },
        Subject {
            name: "windows",
            files: model_files(&[]),
            read: read_model,
        },
        Subject {
            name: "nested",
            files: model_files(&["config.json", "model.safetensors"]),
            read: read_model,
        },
        Subject {
            name: "rows",
            files: named(&[
                "rows.jsonl",
                "rows.jsonl",
                "tasks.jsonl",
                "alpaca.json",
                "trivia.json",
                "prompts.jsonl",
            ]),
            read: read_rows,
        },
        Subject {
            name: "results",
            files: named(&[
                "evaluation.json",
                "journal.jsonl",
                "verdicts.jsonl",
                "people.json",
            ]),
            read: read_results,
        },
        Subject {
            name: "run",
            files: named(&[
                "out/run.json",
                "out/log.jsonl",
                "out/checkpoints/step-000002/progress.json",
                "out/checkpoints/step-000002/optimizer.safetensors",
                "out/checkpoints/step-000002/config.json",
                "out/checkpoints/step-000002/model.safetensors",
            ]),
            read: run::resume,
        },
    ]
}

pub fn copy(source: &Path, target: &Path) {
    fs::create_dir_all(target).unwrap();
    for entry in fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, target.join(path.file_name().unwrap())).unwrap();
        }
    }
}

fn write(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn rows(root: &Path) {
    write(
        root,
        "rows/rows.jsonl",
        r#"{"prompt": "a", "response": "b"}
{"messages": [{"role": "user", "content": [{"type": "text", "text": "c"}]}, {"role": "assistant", "content": null, "tool_calls": [{}]}], "tools": [{}]}
{"conversations": [{"from": "human", "value": "c"}, {"from": "gpt", "value": "d"}]}
{"instruction": "a", "input": "i", "output": "b"}
{"text": "t"}
"#,
    );
    write(
        root,
        "rows/tasks.jsonl",
        r#"{"question": "q", "answerKey": "B", "choices": {"text": ["a", "b"], "label": ["A", "B"]}}
{"passage": "p", "question": "q", "label": 1, "answer": {"aliases": ["a"]}}
{"activity_label": "l [title]", "ctx_a": "a", "ctx_b": "[b] c", "endings": ["d", "e [f"], "label": "1"}
{"goal": "g", "sol1": "a", "sol2": "b", "label": 0}
"#,
    );
    write(
        root,
        "rows/alpaca.json",
        r#"[{"instruction": "a", "input": "", "output": "b"}, {"instruction": "a", "output": "b"}]"#,
    );
    write(
        root,
        "rows/trivia.json",
        r#"{"Data": [{"QuestionId": "q", "Question": "Where?", "Answer": {"Value": "a", "Aliases": ["b"], "NormalizedAliases": ["b"]}}]}"#,
    );
    write(
        root,
        "rows/prompts.jsonl",
        "{\"prompt\": \"a\"}\n{\"instruction\": \"a\", \"input\": \"b\"}\n{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n",
    );
}

fn results(root: &Path) {
    write(
        root,
        "results/evaluation.json",
        r#"{"provenance": {"command": "c", "version": "0", "machine": "m", "seeds": [["s", 1]], "inputs": [], "seconds": 1.0},
            "findings": [{"kind": "samples", "prompt": "p", "wanted": null, "depth": 4, "answers": [{"model": "m", "mode": "full", "pieces": [["a", 2]]}]}]}"#,
    );
    let folder = root.join("results");
    let mut journal = Journal::open(
        folder.join("journal.jsonl"),
        &serde_json::json!({"model": "m"}),
    )
    .unwrap();
    journal.record("a", &[1, 2]).unwrap();
    write(
        root,
        "results/verdicts.jsonl",
        "{\"instruction\": \"a\", \"input\": \"\", \"first\": \"b\", \"second\": \"c\", \"judge\": \"people\", \"verdict\": \"1\"}\n",
    );
    write(
        root,
        "results/people.json",
        r#"[{"instruction": "a", "input": "", "response1": "b", "response2": "c", "annotator1": 0, "annotator2": 1, "annotator3": 2}]"#,
    );
}
