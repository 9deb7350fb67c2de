//! The data set of Stanford Alpaca, `alpaca_data.json`, and its two prompts.
//!
//! Source: Taori et al., *Stanford Alpaca*, 2023. The prompts and the choice between them (whether
//! `input` is empty) follow its `train.py` byte for byte. As there, the response directly follows
//! `### Response:`, without a line break.

use std::path::Path;

use crate::rows::{Field, read_rows, records};
use crate::{DataError, Record};

/// The prompt for an instruction; `input` may be empty.
///
/// ```
/// let prompt = soft_data::alpaca_prompt("Name a colour.", "");
/// assert!(prompt.ends_with("\n\n### Instruction:\nName a colour.\n\n### Response:"));
/// ```
pub fn alpaca_prompt(instruction: &str, input: &str) -> String {
    if input.is_empty() {
        format!(
            "Below is an instruction that describes a task. Write a response that appropriately \
             completes the request.\n\n### Instruction:\n{instruction}\n\n### Response:"
        )
    } else {
        format!(
            "Below is an instruction that describes a task, paired with an input that provides \
             further context. Write a response that appropriately completes the request.\n\n\
             ### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
        )
    }
}

/// Reads a JSON array `[{"instruction": .., "input": .., "output": ..}, ..]` or JSON Lines of such
/// objects.
///
/// `input` is optional. Rows with an empty `output`, of which the published file has a few, train
/// the model to stop immediately; [`EncodeReport`](crate::EncodeReport) counts them.
///
/// # Errors
/// When the file cannot be read, is not JSON of this form, has no rows, or a row lacks a string.
pub fn read_alpaca(path: impl AsRef<Path>) -> Result<Vec<Record>, DataError> {
    let path = path.as_ref();
    records(path, read_rows(path)?, record)
}

fn record(row: &Field, number: usize) -> Result<Record, DataError> {
    let instruction = row.require("instruction", "the instruction")?.text()?;
    let input = row.get("input")?.map_or(Ok(""), |input| input.text())?;
    let output = row.require("output", "the response")?.text()?;
    Ok(Record::completion(
        number,
        alpaca_prompt(instruction, input),
        output,
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::Body;

    fn read(text: &str) -> Result<Vec<Record>, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alpaca.json");
        fs::write(&path, text).unwrap();
        read_alpaca(&path)
    }

    #[test]
    fn prompts_are_stanfords_byte_for_byte() {
        assert_eq!(
            alpaca_prompt("Say so.", ""),
            "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\nSay so.\n\n### Response:"
        );
        assert_eq!(
            alpaca_prompt("Add.", "1, 2"),
            "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:"
        );
    }

    #[test]
    fn braces_in_a_row_are_text() {
        assert!(alpaca_prompt("{input}", "{instruction}").contains("### Instruction:\n{input}\n"));
    }

    #[test]
    fn reads_rows_with_and_without_input() {
        let rows = read(
            r#"[{"instruction": "Add.", "input": "1, 2", "output": "3"},
                {"instruction": "Hi", "output": "", "more": 1}]"#,
        )
        .unwrap();
        assert_eq!(
            rows[0],
            Record::completion(1, alpaca_prompt("Add.", "1, 2"), "3")
        );
        assert_eq!(rows[1], Record::completion(2, alpaca_prompt("Hi", ""), ""));
        assert!(
            matches!(&rows[1].body, Body::Completion { prompt, .. } if !prompt.contains("Input"))
        );
    }

    #[test]
    fn refusals_name_row_and_key() {
        let error = read(r#"[{"instruction": "a", "output": "b"}, {"instruction": "a"}]"#);
        let message = error.unwrap_err().to_string();
        assert!(message.contains("row 2, `output`: expected the response, found an object with"));
        assert!(
            read("[3]")
                .unwrap_err()
                .to_string()
                .contains("expected an object")
        );
        let lines = "{\"instruction\": \"a\", \"output\": \"b\"}\n{\"instruction\": \"a\"}";
        assert!(
            read(lines)
                .unwrap_err()
                .to_string()
                .contains("row 2, `output`")
        );
        assert!(matches!(read("{\n}"), Err(DataError::Layout { .. })));
        assert!(matches!(read("[]"), Err(DataError::NoRows { .. })));
        assert!(matches!(
            read("[{}\n{}]"),
            Err(DataError::Json {
                line: 2,
                column: 1,
                ..
            })
        ));
        assert!(matches!(
            read_alpaca("/nowhere.json"),
            Err(DataError::Read { .. })
        ));
    }
}
