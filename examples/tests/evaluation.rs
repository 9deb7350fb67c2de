//! `soft evaluate`, `soft compare`, `soft calibrate`, `soft sweep` and `soft report` as programs:
//! what they write, that they continue where they were stopped, and that wrong input gets one clear
//! error before anything is computed.

mod programs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use programs::{soft, tiny_llama};
use serde_json::{Value, json};
use soft_examples::tiny_world::{Split, World};

/// A folder to work in, with a model of its own.
struct Site {
    root: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
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

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.read(name)).unwrap()
    }

    /// Runs a program here.
    fn run(&self, program: &str, arguments: &str) -> Output {
        let mut command = soft(program);
        command.current_dir(self.root.path());
        command.args(arguments.split_whitespace());
        command.env_remove("RUST_BACKTRACE").output().unwrap()
    }

    #[track_caller]
    fn succeeds(&self, program: &str, arguments: &str) -> String {
        let output = self.run(program, arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{program} {arguments}: {error}");
        String::from_utf8(output.stdout).unwrap() + &error
    }

    #[track_caller]
    fn refused(&self, program: &str, arguments: &str, parts: &[&str]) {
        let output = self.run(program, arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success(),
            "{program} {arguments} was accepted"
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

const EVALUATE: &str = "evaluate";
const QUESTIONS: &str = "--model tiny=model --data trivia.json --format triviaqa --exits 4,8 --max-new-tokens 6 --show 1";

/// The findings of a file, without what differs from run to run.
fn findings(file: &Value) -> &Value {
    &file["findings"]
}

#[test]
fn evaluate_goes_on_where_it_was_stopped() {
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

    // Cut in the middle of a line, as a kill leaves it.
    // The settings, one batch of rows scored, three answers to each question.
    assert_eq!(journal.lines().count(), 2 + 3 * 24);
    site.write("answers.jsonl", &journal[..journal.len() / 2]);
    site.succeeds(EVALUATE, &format!("{arguments} --json again.json"));
    assert_eq!(findings(&site.json("again.json")), findings(&whole));
    assert_eq!(site.read("answers.jsonl"), journal);

    // Other settings share nothing, whatever else is the same: everything is answered anew.
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
fn calibrated_thresholds_are_stored_and_used() {
    let site = Site::new();
    let texts = "--prompts trivia.json --format triviaqa --max-new-tokens 8";
    let calibrate = format!("--model model --exits 2:8:2 {texts} --disagreement 0.4 --splits 2");
    site.succeeds("calibrate", &format!("{calibrate} --dry-run"));
    assert!(!site.path("model/soft.json").exists());
    let said = site.succeeds("calibrate", &format!("{calibrate} --json calibration.json"));
    assert!(said.contains("of 2"), "{said}");
    let rules = site.json("model/soft.json")["calibrated"].clone();
    assert_eq!(rules.as_array().unwrap().len(), 5);
    assert_eq!(rules[0]["disagreement"], 0.4);
    let first = rules[0]["rule"].as_str().unwrap();
    let generate = "--model model --prompts trivia.json --format triviaqa --limit 2 --max-new-tokens 5 --mode dynamic";
    let said = site.succeeds("generate", generate);
    assert!(said.contains(&format!("exits by {first}")), "{said}");
    let entropy = rules
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| rule["rule"].as_str().unwrap());
    let entropy = entropy
        .into_iter()
        .find(|rule| rule.starts_with("entropy"))
        .unwrap();
    let said = site.succeeds("generate", &format!("{generate} --policy entropy"));
    assert!(said.contains(&format!("exits by {entropy}")), "{said}");
    let said = site.succeeds("generate", &format!("{generate} --thresholds 0.5"));
    assert!(said.contains("exits by confidence=0.5"), "{said}");
    // Rows as texts, which need a format.
    site.succeeds("calibrate", &format!("{calibrate} --text rows --dry-run"));
    let bare = calibrate.replace("--format triviaqa", "--text rows");
    site.refused("calibrate", &bare, &["--format"]);
    site.refused(
        "calibrate",
        &calibrate.replace("0.4", "1.4"),
        &["disagreement", "below 1, found 1.4"],
    );
}

/// The promise on real text: in at least 19 of 20 random splits, for every criterion, and not
/// because nothing leaves.
#[test]
fn calibration_keeps_its_promise_on_random_splits() {
    let site = Site::new();
    let asked = World::new(7).instructions(Split::Train);
    let prompts = asked
        .iter()
        .step_by(3)
        .map(|asked| json!({"prompt": asked.prompt}).to_string() + "\n");
    site.write("prompts.jsonl", &prompts.collect::<String>());
    site.succeeds(
        "calibrate",
        "--model model --exits 2:8:2 --prompts prompts.jsonl --max-new-tokens 12 --disagreement 0.2 --splits 20 --json calibration.json",
    );
    let found = site.json("calibration.json");
    let rows = found["findings"][0]["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 5);
    for row in rows {
        assert_eq!(row["provable"], true);
        let kept = row["kept"][0].as_u64().unwrap();
        assert!(kept >= 19, "{kept} of 20: {row}");
    }
    let depth = rows[0]["checked"]["mean_depth"].as_f64().unwrap();
    assert!(
        depth < 7.0,
        "the first rule leaves after {depth} of 8 blocks"
    );
}

#[test]
fn people_judge_through_a_file() {
    let site = Site::new();
    let compare = "--ours one=model --theirs other=model --exits 2,8 --instructions instructions.json --positions 3 --max-new-tokens 5";
    let judged =
        format!("{compare} --judge file --verdicts verdicts.jsonl --journal journal.jsonl");
    site.refused(
        "compare",
        &judged,
        &["verdicts are missing", "verdicts.jsonl", "fill in"],
    );
    // People prefer what exit 2 says, wherever it stands: it is what both "one" and "other" say
    // there.
    let open = site.read("verdicts.jsonl");
    let lines = open
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let lines: Vec<Value> = lines.collect();
    assert!(
        lines
            .iter()
            .all(|line| line["judge"] == "people" && line["verdict"].is_null())
    );
    // Exit 2 against itself ties unasked; against exit 8 each pair is asked in both orders, ours
    // first.
    assert_eq!(lines.len(), 6);
    let filled = lines.iter().enumerate().map(|(index, line)| {
        let mut line = line.clone();
        line["verdict"] = json!(if index % 2 == 0 { "1" } else { "2" });
        line.to_string() + "\n"
    });
    site.write("verdicts.jsonl", &filled.collect::<String>());
    site.succeeds("compare", &format!("{judged} --json compare.json"));
    let found = site.json("compare.json");
    let of_kind = |kind: &str| -> Vec<&Value> {
        let findings = found["findings"].as_array().unwrap().iter();
        findings.filter(|finding| finding["kind"] == kind).collect()
    };
    assert_eq!(of_kind("agreement").len(), 4);
    let samples = of_kind("samples");
    assert_eq!(samples.len(), 3);
    let modes = samples[0]["answers"].as_array().unwrap().iter();
    let modes: Vec<_> = modes
        .map(|answer| answer["mode"].as_str().unwrap())
        .collect();
    assert_eq!(
        modes,
        ["exit=2", "exit=8", "dynamic", "exit=2", "exit=8", "dynamic"]
    );
    let rows = of_kind("judged")[0]["rows"].as_array().unwrap();
    let scores: Vec<_> = rows
        .iter()
        .map(|row| {
            let pair = (
                row["exit"].as_u64().unwrap(),
                row["their_exit"].as_u64().unwrap(),
            );
            (pair, row["score"]["score"]["estimate"].as_f64().unwrap())
        })
        .collect();
    assert_eq!(scores, [((2, 2), 0.0), ((2, 8), 1.0), ((8, 8), 0.0)]);
    let partial = format!("{judged} --judge-exits 2");
    site.refused(
        "compare",
        &partial,
        &["--judge-exits 2", "the last must be 8"],
    );
}

#[test]
fn a_model_judges_and_is_measured() {
    let site = Site::new();
    let pair = |verdicts: [u8; 3]| {
        json!({"instruction": "repeat the words soup", "input": "", "response1": "soup .", "response2": "kale honey .",
            "annotator1": verdicts[0], "annotator2": verdicts[1], "annotator3": verdicts[2]})
    };
    site.write(
        "people.json",
        &json!([pair([1, 1, 2]), pair([0, 1, 2])]).to_string(),
    );
    let people = "--people people.json --verdicts verdicts.jsonl --positions 0 --ours one=model --theirs other=model --exits 2,8";
    for judge in ["response=model", "verdict=model"] {
        let said = site.succeeds(
            "compare",
            &format!("{people} --judge {judge} --json {judge}.json"),
        );
        assert!(said.contains("beside people"), "{said}");
        let quality = &site.json(&format!("{judge}.json"))["findings"][0]["quality"];
        assert_eq!(
            (&quality["pairs"], &quality["without_majority"]),
            (&json!(1), &json!(1))
        );
    }
    // Both wrote to one file, and neither answered for the other: two orders each.
    assert_eq!(site.read("verdicts.jsonl").lines().count(), 4);
    for (arguments, part) in [
        (format!("{people} --judge coin"), "unknown judge \"coin\""),
        (people.to_owned(), "--judge"),
        (
            format!("{people} --judge file"),
            "--people measures a judge",
        ),
        (
            people.replace("other=", "one=") + " --judge response=model",
            "both models are called",
        ),
        (
            "--ours one=model --theirs other=model".to_owned(),
            "nothing to compare on",
        ),
    ] {
        site.refused("compare", &arguments, &[part]);
    }
    let dead = format!("{people} --judge chat=m --url http://127.0.0.1:9/v1 --attempts 1");
    site.refused(
        "compare",
        &dead,
        &["no verdict", "http://127.0.0.1:9/v1 after 1 attempt"],
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
    // What was measured is not measured again.
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
    // Ours less theirs: what was not trained on the questions loses to what was.
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
    let absent = Path::new("absent.json");
    assert!(!absent.exists());
    site.refused(
        "plot-exits",
        "absent.json --out x.svg",
        &["cannot read absent.json"],
    );
}
