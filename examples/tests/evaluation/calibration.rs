//! `soft calibrate`: thresholds are stored and used, and the limit on disagreement holds.

use serde_json::{Value, json};
use soft_examples::tiny_world::{Split, World};

use crate::site::Site;

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
    assert_eq!(rules.as_array().unwrap().len(), 6);
    assert_eq!(rules[0]["disagreement"], 0.4);
    let first = rules[0]["rule"].as_str().unwrap();
    let generate = "--model model --prompts trivia.json --format triviaqa --limit 2 --max-new-tokens 5 --mode dynamic";
    let said = site.succeeds("generate", generate);
    assert!(said.contains(&format!("exits by {first}")), "{said}");
    // Beyond the length or the sampling of the test.
    assert!(!said.contains("not guaranteed"), "{said}");
    assert_eq!(rules[0]["longest"], 9);
    for (beyond, reason) in [
        ("--max-new-tokens 9", "at most 8 new tokens, not 9"),
        ("--max-new-tokens 5 --temperature 0.7", "greedy decoding"),
    ] {
        let asked = generate.replace("--max-new-tokens 5", beyond);
        let said = site.succeeds("generate", &asked);
        assert!(
            said.contains("not guaranteed") && said.contains(reason),
            "{said}"
        );
    }
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
    // Probes are stored beside the rules, and needed for theirs.
    let probes = site.json("model/exit_probes.json");
    assert_eq!(probes.as_array().unwrap().len(), 3);
    site.succeeds(
        "generate",
        &generate.replace("dynamic", "dynamic:probe=0.7"),
    );
    site.refused(
        "generate",
        &generate.replace("dynamic", "dynamic:draft:probe=0.7"),
        &["no list of draft tokens"],
    );
    let mut wide = probes.clone();
    wide[1]["weights"].as_array_mut().unwrap().pop();
    site.write("model/exit_probes.json", &wide.to_string());
    site.refused(
        "generate",
        generate,
        &["exit 4 has 95 weights: expected 96"],
    );
    std::fs::remove_file(site.path("model/exit_probes.json")).unwrap();
    let asked = generate.replace("dynamic", "dynamic:probe=0.7");
    site.refused("generate", &asked, &["the model has no probes"]);
    let said = site.succeeds("generate", &format!("{generate} --thresholds 0.5"));
    assert!(said.contains("exits by confidence=0.5"), "{said}");
    // Responses of rows need a format.
    site.succeeds("calibrate", &format!("{calibrate} --text rows --dry-run"));
    let bare = calibrate.replace("--format triviaqa", "--text rows");
    site.refused("calibrate", &bare, &["--format"]);
    site.refused(
        "calibrate",
        &calibrate.replace("0.4", "1.4"),
        &["disagreement", "below 1, found 1.4"],
    );
}

#[test]
fn rules_of_draft_heads_end_with_their_list() {
    let site = Site::new();
    let list: Vec<u32> = (0..60).collect();
    site.write("model/draft_tokens.json", &json!(list).to_string());
    let texts = "--prompts trivia.json --format triviaqa --max-new-tokens 8";
    let calibrate = format!("--model model --exits 2:8:2 {texts} --disagreement 0.4");
    let heads = || -> Vec<String> {
        let rules = site.json("model/soft.json")["calibrated"].clone();
        let head = |rule: &Value| rule["head"].as_str().unwrap().to_owned();
        rules.as_array().unwrap().iter().map(head).collect()
    };
    let said = site.succeeds("calibrate", &calibrate);
    assert!(said.contains("heads of the draft tokens"), "{said}");
    assert_eq!(heads(), ["draft"; 6]);
    // The new probes are of other labels, so that the earlier rule by probe goes.
    site.succeeds("calibrate", &format!("{calibrate} --full-draft-head"));
    assert_eq!(
        heads(),
        [["full"; 6].to_vec(), ["draft"; 5].to_vec()].concat()
    );
    let count = "--model model --data trivia.json --format triviaqa --count 9";
    let said = site.succeeds("draft-tokens", count);
    assert!(said.contains("5 calibrated rules"), "{said}");
    assert_eq!(heads(), ["full"; 6]);
    let said = site.succeeds("draft-tokens", count);
    assert!(!said.contains("calibrated"), "{said}");
}

/// The limit holds in at least 19 of 20 random splits for every criterion, with early exits.
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
    assert_eq!(rows.len(), 6);
    for row in rows {
        assert_eq!(row["provable"], true);
        let kept = row["kept"][0].as_u64().unwrap();
        assert!(kept >= 19, "{kept} of 20: {row}");
    }
    // On the texts of dynamic decoding too, of which the recommended rule alone writes any.
    let own = rows[0]["own_text"]["estimate"].as_f64().unwrap();
    assert!(own > 0.0 && own < 0.2, "{own}");
    assert!(rows[1..].iter().all(|row| row["own_text"].is_null()));
    let depth = rows[0]["checked"]["mean_depth"].as_f64().unwrap();
    assert!(
        depth < 7.0,
        "with the first rule tokens exit after {depth} of 8 blocks on average"
    );
}
