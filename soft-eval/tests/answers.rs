//! Exact match and F1 of 2,000 random answers, compared with an independent computation in Python
//! (`fixtures/make_answers.py`).

#![allow(clippy::unwrap_used)] // a test's way to fail

use serde::Deserialize;
use soft_eval::{exact_match, exact_match_normalized, f1};

#[derive(Deserialize)]
struct Row {
    prediction: String,
    answers: Vec<String>,
    exact: bool,
    #[serde(rename = "normalised")]
    normalized: bool,
    f1: f64,
}

#[test]
fn random_answers_score_as_in_python() {
    let text = include_str!("fixtures/answers.jsonl");
    let rows = text
        .lines()
        .map(|line| serde_json::from_str::<Row>(line).unwrap());
    let (mut exact, mut normalized, mut partial) = (0, 0, 0);
    for (index, row) in rows.enumerate() {
        let place = || {
            format!(
                "row {}: {:?} and {:?}",
                index + 1,
                row.prediction,
                row.answers
            )
        };
        assert_eq!(
            exact_match(&row.prediction, &row.answers),
            row.exact,
            "{}",
            place()
        );
        let same = exact_match_normalized(&row.prediction, &row.answers);
        assert_eq!(same, row.normalized, "{}", place());
        let found = f1(&row.prediction, &row.answers);
        assert!(
            (found - row.f1).abs() < 1e-12,
            "{found} {} {}",
            row.f1,
            place()
        );
        exact += usize::from(row.exact);
        normalized += usize::from(row.normalized);
        partial += usize::from(row.f1 > 0.0 && row.f1 < 1.0);
    }
    assert!(exact > 100 && normalized > exact && partial > 200);
}
