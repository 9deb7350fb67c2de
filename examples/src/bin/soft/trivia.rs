//! Extracts answers to trivia questions from generated text and scores them.

use soft_data::Record;
use soft_eval::AnswerScore;

/// The first line, since an untuned model continues with further questions.
pub fn first_line(answer: &str) -> String {
    let first = answer.trim().lines().next().unwrap_or_default();
    first.trim().to_owned()
}

/// Scores of the answers to these rows, except those without a question.
pub fn trivia_scores(records: &[Record], predictions: &[String]) -> Vec<AnswerScore> {
    let pairs = records.iter().zip(predictions);
    let scored = pairs.filter_map(|(record, prediction)| {
        let question = record.trivia.as_ref()?;
        let accepted: Vec<&str> = question.accepted().collect();
        Some(AnswerScore::of(prediction, &accepted))
    });
    scored.collect()
}
