//! Files changed at random, read by everything that reads files: a value or one error, never a
//! panic, a hang or an abort.
//!
//! `SOFT_MUTATIONS=1000000 cargo test --release -p soft-examples --test mutations` tries as many
//! inputs (30,000 without), `SOFT_SEED` begins elsewhere. A failure names its input's number;
//! `SOFT_FIRST=NUMBER SOFT_MUTATIONS=1` tries that one alone and keeps its files.

mod mutate;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mutate::{Random, mutated};
use soft_burn::burn::tensor::Device;
use soft_burn::{
    Adapter, Llama, LlamaConfig, LogLine, Method, Run, RunData, RunSettings, SaveOptions, SoftInfo,
    TrainSettings, device, draft_tokens,
};
use soft_core::{DecodeModel, DecodeSettings, Decoder, Exit, Mode, NestedModel, Prompt};
use soft_data::{
    ControlText, Conversation, Loader, LoaderConfig, Message, Record, Role, Tokenizer, encode,
    read_alpaca, read_instructions, read_jsonl, read_prompts, read_trivia_qa,
};
use soft_eval::results::Evaluation;
use soft_eval::{Journal, VerdictFile, read_pandalm};

/// What is read: a folder of good files, and what to do with it once one of them is changed.
struct Subject {
    name: &'static str,
    /// Files that are changed, below the folder.
    files: Vec<PathBuf>,
    read: fn(&Path),
}

#[test]
fn damaged_files_are_read_or_refused() {
    let number = |name: &str, otherwise: u64| {
        let given = std::env::var(name).ok();
        given.map_or(otherwise, |text| text.parse().unwrap())
    };
    let (count, seed) = (number("SOFT_MUTATIONS", 30_000), number("SOFT_SEED", 1));
    let first = number("SOFT_FIRST", 0);
    let root = tempfile::tempdir().unwrap();
    let subjects = subjects(root.path());
    let kept = std::env::var_os("SOFT_FIRST").is_some();
    let mut slowest = Duration::ZERO;
    let started = Instant::now();
    for index in first..first + count {
        let mut random = Random(seed ^ index.wrapping_mul(0xA076_1D64_78BD_642F));
        let subject = random.pick(&subjects);
        let file = root
            .path()
            .join(subject.name)
            .join(random.pick(&subject.files));
        let good = fs::read(&file).unwrap();
        fs::write(&file, mutated(&good, &mut random)).unwrap();
        if count > 100_000 && index % 1000 == 0 {
            // So that an abort can be placed.
            fs::write(
                std::env::temp_dir().join("soft-mutations"),
                index.to_string(),
            )
            .unwrap();
        }
        let began = Instant::now();
        let done = catch_unwind(AssertUnwindSafe(|| {
            (subject.read)(&root.path().join(subject.name))
        }));
        slowest = slowest.max(began.elapsed());
        let place = || {
            let kept = std::env::temp_dir().join(format!("soft-mutation-{index}"));
            let _ = fs::copy(&file, &kept);
            format!(
                "input {index} of seed {seed}: {} kept as {}",
                file.display(),
                kept.display()
            )
        };
        assert!(done.is_ok(), "{} panicked, {}", subject.name, place());
        // No bar on speed: what takes as long as this would take any time at all.
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{} hangs, {}",
            subject.name,
            place()
        );
        if kept && count == 1 {
            println!("{}", place());
        }
        fs::write(&file, good).unwrap();
    }
    println!(
        "{count} inputs in {:.0?}, the slowest {slowest:.1?}",
        started.elapsed()
    );
}

fn subjects(root: &Path) -> Vec<Subject> {
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
    for name in ["bytes", "pieces"] {
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
    rows(root);
    results(root);
    run(root);
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
            files: model_files(&["model.safetensors", "soft.json", "draft_tokens.json"]),
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
            name: "rows",
            files: named(&[
                "rows.jsonl",
                "rows.jsonl",
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
            read: resume,
        },
    ]
}

fn copy(source: &Path, target: &Path) {
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

fn cpu() -> Device {
    device("cpu").unwrap()
}

/// Loads a model and lets it name a few tokens.
fn read_model(folder: &Path) {
    let _ = (
        SoftInfo::load(folder),
        draft_tokens(folder),
        LlamaConfig::load(folder),
    );
    let _ = Adapter::load(folder.join("adapter"));
    let Ok(model) = Llama::from_pretrained(folder, &cpu()) else {
        return;
    };
    let Ok(tokens) = model.tokens(&[vec![0, 1, 0]]) else {
        return;
    };
    let exit = Exit::new(model.depth()).unwrap();
    let _ = model.sub_model(&tokens, exit);
    let settings = DecodeSettings::greedy(Mode::Static(exit), 3);
    if let Ok(decoder) = Decoder::new(&model, &[Prompt::from(vec![0, 1])], settings) {
        decoder.take_while(Result::is_ok).for_each(drop);
    }
}

/// Opens a tokenizer, encodes rows and a conversation, decodes them.
fn read_tokenizer(folder: &Path) {
    let Ok(tokenizer) = Tokenizer::from_folder(folder, 400) else {
        return;
    };
    let talk: Conversation = vec![
        Message::new(Role::System, "Be brief."),
        Message::new(Role::User, "Où? <|im_end|> 日本 \u{1f999}"),
        Message::new(Role::Assistant, "Paris</s>"),
    ]
    .into();
    let records = [
        Record::completion(1, "Answer:", " Paris <s>"),
        Record::chat(2, talk),
    ];
    for control_text in [ControlText::Characters, ControlText::Tokens] {
        let tokenizer = tokenizer.clone().with_control_text(control_text);
        for record in &records {
            let _ = encode(std::slice::from_ref(record), &tokenizer, 64);
            if let Ok(tokens) = record.prompt().encode(&tokenizer) {
                let _ = (
                    tokenizer.decode(&tokens),
                    tokenizer.decode_continuation(&tokens),
                );
            }
        }
    }
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

fn read_rows(folder: &Path) {
    let _ = read_jsonl(folder.join("rows.jsonl"));
    let _ = read_alpaca(folder.join("alpaca.json"));
    let _ = read_trivia_qa(folder.join("trivia.json"));
    let _ = read_prompts(folder.join("prompts.jsonl"));
    let _ = read_instructions(folder.join("prompts.jsonl"));
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

fn read_results(folder: &Path) {
    if let Ok(evaluation) = Evaluation::load(folder.join("evaluation.json")) {
        let _ = soft_eval::report::write_report(folder.join("report"), "t", &[evaluation]);
    }
    // Journals are appended to: what is opened is a copy.
    for name in ["journal.jsonl", "verdicts.jsonl"] {
        fs::copy(folder.join(name), folder.join(format!("{name}.copy"))).unwrap();
    }
    if let Ok(journal) = Journal::open(
        folder.join("journal.jsonl.copy"),
        &serde_json::json!({"model": "m"}),
    ) {
        let _ = journal.get::<Vec<u32>>("a");
    }
    let _ = VerdictFile::open(folder.join("verdicts.jsonl.copy"), "people");
    let _ = read_pandalm(folder.join("people.json"));
}

fn run_settings(folder: &Path) -> RunSettings {
    let exits = "2,4".parse().unwrap();
    RunSettings {
        train: TrainSettings::new(Method::soft(), exits, 4),
        validate_every: None,
        checkpoint_every: Some(2),
        keep_checkpoints: 1,
        base: folder.join("base"),
        provenance: serde_json::json!({"seed": 1}),
    }
}

fn run_data() -> RunData<Loader> {
    let examples = (0..6).map(|i| soft_core::Example::text(vec![1, 2 + i, 3, 4]));
    RunData {
        stream: Loader::new(
            examples.collect(),
            LoaderConfig {
                batch_size: 2,
                ..LoaderConfig::default()
            },
        )
        .unwrap(),
        validation: Vec::new(),
    }
}

/// A run that was stopped after its third step.
fn run(root: &Path) {
    let folder = root.join("run");
    copy(&root.join("single"), &folder.join("base"));
    let model = Llama::from_pretrained(folder.join("base"), &cpu()).unwrap();
    let mut run = Run::start(
        &folder.join("out"),
        model,
        run_settings(&folder),
        run_data(),
    )
    .unwrap();
    let lines: Vec<LogLine> = run.by_ref().take(3).collect::<Result<_, _>>().unwrap();
    assert_eq!(lines.len(), 3);
}

/// Goes on with a copy of the run, which a step changes.
fn resume(folder: &Path) {
    let copied = folder.join("copy");
    let _ = fs::remove_dir_all(&copied);
    copy(&folder.join("out"), &copied);
    copy(
        &folder.join("out/checkpoints/step-000002"),
        &copied.join("checkpoints/step-000002"),
    );
    if let Ok(mut run) = Run::resume(&copied, run_settings(folder), run_data(), &cpu()) {
        let _ = run.next();
    }
}

/// Every file as it is: what the changed ones are compared with must itself be read.
#[test]
fn undamaged_files_are_read() {
    let root = tempfile::tempdir().unwrap();
    let _ = subjects(root.path());
    let path = |name: &str| root.path().join(name);
    for name in ["single", "sharded", "adapter"] {
        let model = Llama::from_pretrained(path(name), &cpu()).unwrap();
        model
            .save_pretrained(path(name).join("again"), &SaveOptions::default())
            .unwrap();
    }
    for name in ["bytes", "pieces"] {
        Tokenizer::from_folder(path(name), 400).unwrap();
    }
    assert!(SoftInfo::load(path("single")).unwrap().is_some());
    assert_eq!(draft_tokens(path("single")).unwrap(), Some(vec![1, 2, 3]));
    assert_eq!(read_jsonl(path("rows/rows.jsonl")).unwrap().len(), 5);
    read_alpaca(path("rows/alpaca.json")).unwrap();
    read_trivia_qa(path("rows/trivia.json")).unwrap();
    read_prompts(path("rows/prompts.jsonl")).unwrap();
    Evaluation::load(path("results/evaluation.json")).unwrap();
    VerdictFile::open(path("results/verdicts.jsonl"), "people").unwrap();
    read_pandalm(path("results/people.json")).unwrap();
    let folder = path("run");
    Run::resume(
        &folder.join("out"),
        run_settings(&folder),
        run_data(),
        &cpu(),
    )
    .unwrap();
}
