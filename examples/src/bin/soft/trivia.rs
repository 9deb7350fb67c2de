//! Answers to trivia questions: extracted from generated text, and scored.

use soft_data::Record;
use soft_eval::AnswerScore;

/// The first line: an untuned model continues with further questions after its answer.
pub fn first_line(answer: &str) -> String {
    let first = answer.trim().lines().next().unwrap_or_default();
    first.trim().to_owned()
}

/// Scores of the answers to these rows; rows without a question have none.
pub fn trivia_scores(records: &[Record], predictions: &[String]) -> Vec<AnswerScore> {
    let pairs = records.iter().zip(predictions);
    let scored = pairs.filter_map(|(record, prediction)| {
        let question = record.trivia.as_ref()?;
        let accepted: Vec<&str> = question.accepted().collect();
        Some(AnswerScore::of(prediction, &accepted))
    });
    scored.collect()
}
