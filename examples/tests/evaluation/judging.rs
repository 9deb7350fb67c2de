//! `soft compare --judge`: verdicts of people through a file, and of models, which are compared
//! with people.

use serde_json::{Value, json};

use crate::site::Site;

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
    // People prefer the response of exit 2, which is the same for both models.
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
    // Equal responses tie without a verdict; the others are judged in both orders, ours first.
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
    // Both judges use one file, with their own verdicts: two orders each.
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
