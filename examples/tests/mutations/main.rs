//! Randomly changed files, read by everything that reads files: the result is a value or one error,
//! never a panic, a hang or an abort.
//!
//! `SOFT_MUTATIONS=1000000 cargo test --release -p soft-examples --test mutations` tries this many
//! inputs (default 30,000); `SOFT_SEED` sets the seed. A failure names the number of its input;
//! `SOFT_FIRST=NUMBER SOFT_MUTATIONS=1` tries that one alone and keeps its files.

mod mutate;
mod readers;
mod run;
mod subjects;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use mutate::{Random, mutated};
use readers::cpu;
use soft_burn::{Llama, Run, SaveOptions, SoftInfo, draft_tokens};
use soft_data::{Tokenizer, read_alpaca, read_jsonl, read_prompts, read_trivia_qa};
use soft_eval::results::Evaluation;
use soft_eval::{VerdictFile, read_pandalm};
use subjects::subjects;

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
            // Recorded to find the input if the process aborts.
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
        // A generous limit that only an endless loop should exceed.
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

/// The unchanged files must be readable, else the test above is void.
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
        run::run_settings(&folder),
        run::run_data(),
        &cpu(),
    )
    .unwrap();
}
