//! Answers to trivia questions: cut out of what a model continues with, and scored.

use soft_data::Record;
use soft_eval::AnswerScore;

/// An untuned model continues with questions of its own; only its first line is an answer.
pub fn first_line(answer: &str) -> String {
    let first = answer.trim().lines().next().unwrap_or_default();
    first.trim().to_owned()
}

/// How right the answers to these rows are; rows that are no questions have none.
pub fn trivia_scores(records: &[Record], predictions: &[String]) -> Vec<AnswerScore> {
    let pairs = records.iter().zip(predictions);
    let scored = pairs.filter_map(|(record, prediction)| {
        let question = record.trivia.as_ref()?;
        let accepted: Vec<&str> = question.accepted().collect();
        Some(AnswerScore::of(prediction, &accepted))
    });
    scored.collect()
}
