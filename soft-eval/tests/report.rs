//! Reports with every kind of finding: all formats contain all results, and texts cannot become
//! markup.

#![cfg(feature = "report")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test's way to fail

use std::path::Path;

use soft_core::decode::OperationCosts;
use soft_core::policy::Criterion;
use soft_core::toy::ToyModel;
use soft_core::{Exit, Exits, Prompt};
use soft_eval::report::write_report;
use soft_eval::results::{
    AgreementTable, AnswerRow, AnswerTable, CalibrationRow, CalibrationTable, DifferenceRow,
    DifferenceTable, Evaluation, ExitRow, ExitTable, Finding, Input, JudgeQualityTable, JudgedRow,
    JudgedTable, Provenance, Sample, SampleTable, SpeedTable,
};
use soft_eval::{
    AnsweredPrompt, Baseline, BaselineScores, CalibrationSettings, ExitScores, Interval,
    JudgeQuality, Pairing, PairwiseScore, Setting, SpeedMeter, SpeedMode, calibrate, speed_figures,
    trace,
};

fn around(estimate: f64) -> Interval {
    let ends = [0.9 * estimate, 1.1 * estimate];
    Interval {
        estimate,
        low: ends[0].min(ends[1]),
        high: ends[0].max(ends[1]),
    }
}

fn exit(depth: usize) -> Exit {
    Exit::new(depth).unwrap()
}

fn scored(model: &str, loss: f64) -> Finding {
    let row = |depth: usize| ExitRow {
        scores: ExitScores {
            exit: exit(depth),
            loss: loss / depth as f64,
            perplexity: (loss / depth as f64).exp(),
            accuracy: 0.1 * depth as f64,
            accuracy_without_ends: Some(0.08 * depth as f64),
            tokens: 1000,
        },
        loss: Some(around(loss / depth as f64)),
        skill: Some(around(0.5)),
    };
    Finding::Exits(ExitTable {
        model: model.to_owned(),
        data: "held-out questions".to_owned(),
        rows: [1, 2, 4].map(row).into(),
        baselines: Baseline::ALL
            .map(|baseline| BaselineScores {
                baseline,
                loss: around(2.5),
                accuracy: 0.2,
                accuracy_without_ends: Some(0.0),
                tokens: 1000,
            })
            .into(),
    })
}

/// Results of a toy model where they can be computed; the others are made up.
fn findings() -> Vec<Finding> {
    let model = ToyModel::new(4, 6, 12, 3).restless();
    let exits = Exits::new([1, 2, 4]).unwrap();
    let answered = |i: u32| AnsweredPrompt {
        prompt: vec![i % 12, 1],
        answer: (0..18).map(|j| (i * 5 + j * 7) % 12).collect(),
        ended: false,
    };
    let answers: Vec<_> = (0..6).map(answered).collect();
    let pairing = Pairing {
        model: &model,
        reference: &model,
        exits: &exits,
        positions: 20,
    };
    let texts: Vec<_> = (0..30u32)
        .map(|i| {
            let text: Vec<u32> = (0..20).map(|j| (i * i + 3 * j) % 12).collect();
            trace(&model, &exits, &text, 1..19).unwrap()
        })
        .collect();
    let found = calibrate(
        Criterion::Margin,
        &exits,
        &texts,
        &CalibrationSettings::at_most(0.5, 20),
    )
    .unwrap();
    let mode = |name: &str, depth: usize| SpeedMode {
        name: name.to_owned(),
        settings: Box::new(move || {
            soft_core::DecodeSettings::greedy(soft_core::Mode::Static(exit(depth)), 9)
        }),
    };
    let prompts: Vec<_> = (0..4).map(|i| Prompt::from(vec![i, 3])).collect();
    let modes = [mode("full", 4), mode("exit=2", 2)];
    let mut meter = SpeedMeter::new(&model, &modes);
    let samples: Vec<_> = prompts
        .iter()
        .map(|prompt| meter.measure(prompt).unwrap())
        .collect();
    let names = modes.each_ref().map(|mode| mode.name.clone());
    let costs = OperationCosts {
        block: 1e9,
        appended: 0.0,
        attended: 0.0,
        head: 1e8,
        draft_head: 0.0,
    };
    let setting = |name: &str, speed, agreement| Setting {
        name: name.to_owned(),
        speed,
        agreement,
        least: agreement,
    };
    let answer_row = |mode: &str, depth: Option<usize>, share: f64| AnswerRow {
        mode: mode.to_owned(),
        exit: depth.map(exit),
        exact_match: around(share),
        exact_match_normalized: around(1.2 * share),
        f1: around(1.5 * share),
    };
    vec![
        scored("SFT", 9.0),
        scored("SoFT", 7.0),
        Finding::Answers(AnswerTable {
            model: "SoFT".to_owned(),
            data: "TriviaQA".to_owned(),
            questions: 500,
            rows: vec![
                answer_row("exit=2", Some(2), 0.1),
                answer_row("exit=4", Some(4), 0.2),
                answer_row("dynamic", None, 0.15),
            ],
        }),
        Finding::Difference(DifferenceTable {
            ours: "SoFT".to_owned(),
            theirs: "SFT".to_owned(),
            data: "held-out questions".to_owned(),
            rows: vec![DifferenceRow {
                exit: exit(4),
                loss: around(0.25),
                their_loss: 2.5,
                accuracy: around(-0.01),
                answers: None,
            }],
        }),
        Finding::Agreement(AgreementTable {
            model: "SoFT".to_owned(),
            reference: "SoFT".to_owned(),
            data: "prompts".to_owned(),
            exits: pairing.agreement(&answers, || ()).unwrap(),
        }),
        Finding::Judged(JudgedTable {
            judge: "people".to_owned(),
            data: "instructions".to_owned(),
            rows: [1, 2, 4]
                .map(|depth| JudgedRow {
                    ours: "SoFT".to_owned(),
                    exit: exit(depth),
                    theirs: "SFT".to_owned(),
                    their_exit: exit(4),
                    score: PairwiseScore {
                        pairs: 170,
                        wins: 100,
                        losses: 200,
                        ties: 40,
                        unclear: 3,
                        consistent: 0.7,
                        score: around(-0.1 * depth as f64),
                    },
                })
                .into(),
        }),
        Finding::JudgeQuality(JudgeQualityTable {
            judge: "people".to_owned(),
            data: "PandaLM".to_owned(),
            quality: JudgeQuality {
                pairs: 900,
                without_majority: 99,
                accuracy: around(0.6),
                macro_f1: 0.5,
                kappa: 0.4,
                human_kappa: 0.7,
                leave_one_out: around(0.65),
                human_leave_one_out: around(0.7),
                consistent: 0.9,
                unclear: 0,
            },
        }),
        Finding::Calibration(CalibrationTable {
            model: "SoFT".to_owned(),
            data: "answers".to_owned(),
            rows: vec![CalibrationRow {
                criterion: Criterion::Margin,
                calibrated: found.calibrated,
                tuning: found.tuning,
                checked: found.tested.clone(),
                cost: Some(0.8),
                tested: found.tested,
                kept: Some((20, 20)),
                own_text: Interval::of_share(&[(1.0, 40.0), (0.0, 40.0)]),
                provable: found.provable,
            }],
        }),
        Finding::Speed(SpeedTable {
            model: "SoFT".to_owned(),
            data: "prompts".to_owned(),
            prompts: 4,
            rows: speed_figures(&names, &samples, &costs),
            settings: vec![setting("full", 1.0, 1.0), setting("exit=2", 1.9, 0.6)],
            recommended: Some(0),
            least_agreement: 0.95,
        }),
        Finding::Samples(SampleTable {
            prompt: "Say <b>it</b> & \"so\"".to_owned(),
            wanted: Some("a|b".to_owned()),
            depth: 4,
            answers: vec![Sample {
                model: "SoFT".to_owned(),
                mode: "dynamic".to_owned(),
                pieces: vec![("<script>".to_owned(), 1), (" alert(1)".to_owned(), 4)],
            }],
        }),
    ]
}

fn evaluation() -> Evaluation {
    Evaluation {
        provenance: Provenance {
            command: "evaluate --model m".to_owned(),
            version: "0.1.0".to_owned(),
            machine: "a machine".to_owned(),
            seeds: vec![("bootstrap".to_owned(), 42)],
            inputs: vec![Input {
                path: "m/model.safetensors".into(),
                bytes: 123_456,
                crc32c: "0badf00d".to_owned(),
            }],
            seconds: 12.0,
        },
        findings: findings(),
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn every_finding_is_in_every_format() {
    // Kept after the test for inspection.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report");
    write_report(&folder, "A report", &[evaluation()]).unwrap();
    let (html, markdown) = (
        read(&folder.join("index.html")),
        read(&folder.join("report.md")),
    );
    for part in [
        "2.250 [2.025, 2.475]",    // SFT's loss at exit 4
        "12.0 [10.8, 13.2]",       // EM after normalization at exit 2
        "+10.0 [+9.0, +11.0] %",   // full-depth tax
        "−0.400 [−0.440, −0.360]", // a judge's score
        "20 of 20",
        "0badf00d",
        "bootstrap 42",
        "evaluate --model m",
    ] {
        assert!(html.contains(part), "{part} is not in the page");
        assert!(markdown.contains(part), "{part} is not in the Markdown");
    }
    assert!(html.contains("Say &lt;b&gt;it&lt;/b&gt; &amp; &quot;so&quot;"));
    assert!(!html.contains("<script"));
    assert!(markdown.contains("\\<script\\>") && !markdown.contains(" <script"));
    assert!(
        html.matches("<svg").count() == 9 && !html.contains("src="),
        "the page needs no other file"
    );
    let figures = std::fs::read_dir(folder.join("figures")).unwrap().count();
    assert_eq!(figures, 18);
    for figure in markdown.split("](figures/").skip(1) {
        let name = figure.split(')').next().unwrap();
        assert!(folder.join("figures").join(name).exists(), "{name}");
    }
    let json: Vec<Evaluation> = serde_json::from_str(&read(&folder.join("report.json"))).unwrap();
    same(&json[0], &evaluation());
}

/// Compares findings except for times and the last digits of numbers.
fn same(found: &Evaluation, wanted: &Evaluation) {
    assert_eq!(found.provenance, wanted.provenance);
    assert_eq!(found.findings.len(), wanted.findings.len());
    for (found, wanted) in found.findings.iter().zip(&wanted.findings) {
        match (found, wanted) {
            (Finding::Speed(found), Finding::Speed(wanted)) => {
                assert_eq!(found.settings, wanted.settings)
            }
            _ => assert_eq!(rounded(found), rounded(wanted)),
        }
    }
}

fn rounded(finding: &Finding) -> String {
    let text = format!("{finding:?}");
    let numbers =
        text.split(' ').map(
            |word| match word.trim_end_matches([',', ')', '}']).parse::<f64>() {
                Ok(number) => format!("{number:.9}"),
                Err(_) => word.to_owned(),
            },
        );
    numbers.collect::<Vec<_>>().join(" ")
}

#[test]
fn evaluations_are_files_and_other_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("evaluation.json");
    assert!(
        Evaluation::load_folder(folder.path()).is_err(),
        "an empty folder"
    );
    let saved = evaluation();
    saved.save(&path).unwrap();
    let loaded = Evaluation::load_folder(folder.path()).unwrap();
    assert_eq!(loaded.len(), 1);
    same(&loaded[0], &saved);
    std::fs::write(folder.path().join("other.json"), "{}").unwrap();
    let error = Evaluation::load_folder(folder.path())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("other.json") && error.contains("provenance"),
        "{error}"
    );
}

/// Names come from command lines and folders. They must not act as markup or as terminal escape
/// codes.
#[test]
fn names_are_text_in_every_format() {
    let name = "\u{1b}[31mred\u{7} <b>|[a](javascript:x) `code` *\n# second";
    let hostile = |finding: Finding| -> Finding {
        let text = serde_json::to_string(&finding).unwrap();
        let name = serde_json::to_string(name).unwrap();
        serde_json::from_str(&text.replace("\"SFT\"", &name)).unwrap()
    };
    let evaluation = Evaluation {
        findings: findings().into_iter().map(hostile).collect(),
        ..evaluation()
    };
    let folder = tempfile::tempdir().unwrap();
    write_report(&folder, name, &[evaluation]).unwrap();
    let mut texts = vec![
        read(&folder.path().join("index.html")),
        read(&folder.path().join("report.md")),
        read(&folder.path().join("report.json")),
    ];
    for figure in std::fs::read_dir(folder.path().join("figures")).unwrap() {
        let path = figure.unwrap().path();
        if path.extension().is_some_and(|end| end == "svg") {
            texts.push(read(&path));
        }
    }
    assert!(texts.iter().filter(|text| text.contains("red")).count() > 3);
    for text in &texts {
        let control = |c: char| c.is_control() && c != '\n' && c != '\t';
        assert!(!text.contains(control));
    }
    assert!(!texts[0].contains("<b>|"));
    let markdown = &texts[1];
    for part in [" <b>", "|[a]", "a](javascript", "\n# second"] {
        assert!(!markdown.contains(part), "{part} is markup");
    }
}
