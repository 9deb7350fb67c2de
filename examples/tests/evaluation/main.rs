//! `soft evaluate`, `compare`, `calibrate`, `sweep` and `report`: output, resumption from a
//! journal, and one clear error for invalid input before anything is computed.

mod calibration;
mod judging;
#[path = "../programs/mod.rs"]
mod programs;
mod site;

use std::fs;

use serde_json::Value;
use site::Site;

const EVALUATE: &str = "evaluate";
const QUESTIONS: &str = "--model tiny=model --data trivia.json --format triviaqa --exits 4,8 --max-new-tokens 6 --show 1";

/// The findings of a file, which do not vary between runs.
fn findings(file: &Value) -> &Value {
    &file["findings"]
}

#[test]
fn evaluate_resumes_from_its_journal() {
    let site = Site::new();
    let arguments = format!("{QUESTIONS} --mode speculative=4 --journal answers.jsonl");
    site.succeeds(EVALUATE, &format!("{arguments} --json whole.json"));
    let whole = site.json("whole.json");
    assert_eq!(whole["findings"][0]["kind"], "exits");
    let rows = whole["findings"][1]["rows"].as_array().unwrap();
    let modes: Vec<_> = rows
        .iter()
        .map(|row| row["mode"].as_str().unwrap())
        .collect();
    assert_eq!(modes, ["exit=4", "exit=8", "speculative=4"]);
    let journal = site.read("answers.jsonl");
    let lines = journal
        .lines()
        .skip(1)
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let lines: Vec<Value> = lines.collect();
    let tokens = |mode: &str| -> Vec<&Value> {
        let mode = format!("mode: \"{mode}\"");
        let of_mode = lines
            .iter()
            .filter(|line| line["key"].as_str().unwrap().contains(&mode));
        of_mode.map(|line| &line["value"]["tokens"]).collect()
    };
    assert_eq!(tokens("exit=8").len(), 24);
    assert_eq!(tokens("exit=8"), tokens("speculative=4"));
    assert_ne!(tokens("exit=8"), tokens("exit=4"));

    // The settings, one batch of scored rows, and three answers to each question. The journal is
    // then truncated within a line, as by a crash.
    assert_eq!(journal.lines().count(), 2 + 3 * 24);
    site.write("answers.jsonl", &journal[..journal.len() / 2]);
    site.succeeds(EVALUATE, &format!("{arguments} --json again.json"));
    assert_eq!(findings(&site.json("again.json")), findings(&whole));
    assert_eq!(site.read("answers.jsonl"), journal);

    // The baselines ask no model.
    let with_baselines = format!("{arguments} --baselines trivia.json --json baselines.json");
    let said = site.succeeds(EVALUATE, &with_baselines);
    assert!(said.contains("bigram") && said.contains("skill"), "{said}");
    assert_eq!(site.read("answers.jsonl"), journal);
    let table = &site.json("baselines.json")["findings"][0];
    let loss = |index: usize| {
        table["baselines"][index]["loss"]["estimate"]
            .as_f64()
            .unwrap()
    };
    assert!(loss(1) < loss(0), "a bigram knows more of its own text");
    for row in table["rows"].as_array().unwrap() {
        let skill = row["skill"]["estimate"].as_f64().unwrap();
        let below = loss(1) - row["scores"]["loss"].as_f64().unwrap();
        assert!((skill - below).abs() < 1e-9, "{skill} {below}");
    }
    site.refused(
        EVALUATE,
        &format!("{QUESTIONS} --baselines absent.json"),
        &["absent.json"],
    );

    // Answers of other settings are not reused.
    let longer = arguments.replace("--max-new-tokens 6", "--max-new-tokens 7");
    site.succeeds(EVALUATE, &longer);
    assert_eq!(site.read("answers.jsonl").lines().count(), 2 + 6 * 24);
    site.refused(
        "sweep",
        "--model model --prompts trivia.json --format triviaqa --exits 4,8 --journal answers.jsonl",
        &["answers.jsonl", "`program`"],
    );
    site.refused(
        EVALUATE,
        &format!("{QUESTIONS} --json whole.json"),
        &["whole.json is there already"],
    );
    site.refused(
        EVALUATE,
        &format!("{QUESTIONS} --json nowhere/x.json"),
        &["cannot write nowhere/x.json"],
    );
    site.refused(
        EVALUATE,
        &format!("{QUESTIONS} --json whole.json"),
        &["whole.json is there already"],
    );
}

#[test]
fn a_sweep_and_a_comparison_become_a_report() {
    let site = Site::new();
    fs::create_dir(site.path("results")).unwrap();
    site.refused(
        "report",
        "--results results --out report",
        &["results", "files that end in .json"],
    );
    let sweep = "--model tiny=model --prompts trivia.json --format triviaqa --limit 4 --exits 2,4,8 --max-new-tokens 6 --lengths 2 --mode auto \
                 --criteria confidence,patience --journal sweep.jsonl";
    let said = site.succeeds("sweep", &format!("{sweep} --json results/sweep.json"));
    assert!(said.contains("recommended"), "{said}");
    let speed = &site.json("results/sweep.json")["findings"][0];
    let settings = speed["settings"].as_array().unwrap();
    let exact = settings.iter().filter(|setting| {
        let name = setting["name"].as_str().unwrap();
        name.starts_with("draft") || ["full", "auto"].contains(&name)
    });
    for setting in exact {
        assert_eq!(setting["agreement"], 1.0, "{setting}");
    }
    // Measurements in the journal are not repeated.
    let journal = site.read("sweep.jsonl");
    site.succeeds("sweep", &format!("{sweep} --json again.json"));
    assert_eq!(site.read("sweep.jsonl"), journal);
    assert_eq!(
        site.json("again.json")["findings"][0]["rows"],
        speed["rows"]
    );

    let compare = "--ours one=model --theirs other=model --exits 4,8 --data trivia.json --format triviaqa --max-new-tokens 6 --positions 4";
    let said = site.succeeds("compare", &format!("{compare} --json results/compare.json"));
    assert!(said.contains("full-depth tax: +0.0 %"), "{said}");
    // A model that was not trained on the questions is worse than one that was.
    let train = "--model model --data trivia.json --format triviaqa --validation 0 --method sft --steps 6 --lr 1e-3 --batch 8";
    site.succeeds("finetune", &format!("{train} --out run"));
    let worse = compare.replace("other=model", "other=run/model");
    let said = site.succeeds("compare", &format!("{worse} --json worse.json"));
    assert!(said.contains("full-depth tax: +"), "{said}");
    let full = &site.json("worse.json")["findings"][0]["rows"][1];
    assert!(full["loss"]["low"].as_f64().unwrap() > 0.5, "{full}");
    assert!(
        full["answers"]["f1"]["estimate"].as_f64().unwrap() <= 0.0,
        "{full}"
    );

    site.succeeds("report", "--results results --out report --title Tiny");
    let page = site.read("report/index.html");
    assert!(page.contains("<title>Tiny</title>") && page.contains("sweep --model tiny=model"));
    assert!(site.path("report/figures/frontier.png").exists());
    site.write("results/broken.json", "{}");
    site.refused(
        "report",
        "--results results --out report",
        &["broken.json", "expected an evaluation"],
    );
    site.refused(
        "sweep",
        &format!("{sweep} --mode hurry").replace("sweep.jsonl", "other.jsonl"),
        &["hurry"],
    );
}

#[test]
fn figures_of_several_evaluations_are_drawn() {
    let site = Site::new();
    site.succeeds(
        EVALUATE,
        &format!("{QUESTIONS} --no-answers --json one.json"),
    );
    site.succeeds("plot-exits", "one.json Other=one.json --out loss.svg");
    let figure = site.read("loss.svg");
    assert!(figure.contains("tiny") && figure.contains("Other"));
    site.refused(
        "plot-exits",
        "absent.json --out x.svg",
        &["cannot read absent.json"],
    );
}
