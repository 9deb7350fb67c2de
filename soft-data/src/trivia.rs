//! TriviaQA without its documents (closed book): the official `unfiltered.nocontext` files.
//!
//! Source: Joshi et al., *TriviaQA*, ACL 2017. The SoFT paper does not print its prompt for
//! TriviaQA; [`trivia_prompt`] is the common form for closed-book questions.

use std::path::Path;

use serde_json::Value;

use crate::rows::{Field, describe, read_json, records};
use crate::{DataError, Record, TriviaQuestion};

/// The prompt for a question: `Question: {question}\nAnswer:`.
///
/// The response is a space followed by the canonical answer.
pub fn trivia_prompt(question: &str) -> String {
    format!("Question: {question}\nAnswer:")
}

/// Reads a file of the form
/// `{"Data": [{"QuestionId": .., "Question": .., "Answer": {"Value": .., "Aliases": [..]}}, ..]}`.
///
/// Other entries are ignored.
///
/// # Errors
/// When the file cannot be read, is not JSON of this form, has no rows, or a row lacks the
/// question, its id or the canonical answer (which the official test files do).
pub fn read_trivia_qa(path: impl AsRef<Path>) -> Result<Vec<Record>, DataError> {
    let path = path.as_ref();
    let mut file = read_json(path)?;
    let Some(Value::Array(rows)) = file.get_mut("Data").map(Value::take) else {
        return Err(DataError::Layout {
            path: path.to_owned(),
            expected: "an object with an array `Data`",
            found: describe(&file),
        });
    };
    if rows.is_empty() {
        Err(DataError::NoRows {
            path: path.to_owned(),
        })
    } else {
        records(path, (1..).zip(rows), record)
    }
}

fn record(row: &Field, number: usize) -> Result<Record, DataError> {
    let answer = row.require("Answer", "the accepted answers")?;
    let spellings = |key| {
        answer
            .get(key)?
            .map_or(Ok(Vec::new()), |field| field.texts())
    };
    let canonical = answer.require("Value", "the canonical answer")?;
    if canonical.text()?.trim().is_empty() {
        return Err(canonical.refuse("the canonical answer", "an empty string".to_owned()));
    }
    let question = TriviaQuestion {
        id: row
            .require("QuestionId", "the question's id")?
            .text()?
            .to_owned(),
        question: row.require("Question", "the question")?.text()?.to_owned(),
        answer: canonical.text()?.trim().to_owned(),
        aliases: spellings("Aliases")?,
        normalized_aliases: spellings("NormalizedAliases")?,
    };
    let prompt = trivia_prompt(&question.question);
    let response = format!(" {}", question.answer);
    Ok(Record {
        trivia: Some(question),
        ..Record::completion(number, prompt, response)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(text: &str) -> Result<Vec<Record>, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trivia.json");
        fs::write(&path, text).unwrap();
        read_trivia_qa(&path)
    }

    #[test]
    fn reads_the_official_layout_and_ignores_the_rest() {
        let rows = read(
            r#"{"Version": 1, "Data": [{"QuestionId": "tc_1", "Question": "Which city?",
                "SearchResults": [], "Answer": {"Value": "Paris", "Type": "WikipediaEntity",
                "Aliases": ["Paris", "City of Light"], "NormalizedAliases": ["paris"]}}]}"#,
        )
        .unwrap();
        let expected = Record::completion(1, "Question: Which city?\nAnswer:", " Paris");
        assert_eq!(rows[0].body, expected.body);
        let question = rows[0].trivia.as_ref().unwrap();
        assert_eq!(
            (question.id.as_str(), question.answer.as_str()),
            ("tc_1", "Paris")
        );
        assert_eq!(question.aliases, ["Paris", "City of Light"]);
        assert_eq!(question.normalized_aliases, ["paris"]);
    }

    #[test]
    fn refusals_name_row_and_key() {
        let row = r#"{"Data": [{"QuestionId": "a", "Question": "b", "Answer": {}}]}"#;
        let message = read(row).unwrap_err().to_string();
        assert!(message.contains("row 1, `Answer.Value`: expected the canonical answer"));
        let row = r#"{"Data": [{"QuestionId": "a", "Question": "b"}]}"#;
        assert!(read(row).unwrap_err().to_string().contains("`Answer`"));
        let row = r#"{"Data": [{"QuestionId": "a", "Question": "b", "Answer": {"Value": " "}}]}"#;
        assert!(
            read(row)
                .unwrap_err()
                .to_string()
                .contains("found an empty string")
        );
        assert!(matches!(
            read(r#"{"Data": []}"#),
            Err(DataError::NoRows { .. })
        ));
        assert!(matches!(read("[]"), Err(DataError::Layout { .. })));
    }
}
