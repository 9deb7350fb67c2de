//! Rows of JSON files, read so that every complaint can name its place.
//!
//! Knows files, rows and keys; knows no data format.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{DataError, Record};

/// The text of a file, without a byte order mark.
pub(crate) fn read_text(path: &Path) -> Result<String, DataError> {
    let text = fs::read_to_string(path).map_err(|cause| DataError::Read {
        path: path.to_owned(),
        cause,
    })?;
    Ok(text
        .strip_prefix('\u{feff}')
        .map(str::to_owned)
        .unwrap_or(text))
}

/// The one JSON value that a file is.
pub(crate) fn read_json(path: &Path) -> Result<Value, DataError> {
    parse(path, 1, &read_text(path)?)
}

/// The JSON value in `text`, which begins at `first_line` of the file.
pub(crate) fn parse(path: &Path, first_line: usize, text: &str) -> Result<Value, DataError> {
    serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        let cause = message
            .rsplit_once(" at line ")
            .map_or(message.as_str(), |(cause, _)| cause);
        DataError::Json {
            path: path.to_owned(),
            line: first_line + error.line().saturating_sub(1),
            column: error.column(),
            cause: cause.to_owned(),
        }
    })
}

/// A value somewhere in a row, and where that is.
#[derive(Clone)]
pub(crate) struct Field<'a> {
    path: &'a Path,
    row: usize,
    key: String,
    value: &'a Value,
}

impl<'a> Field<'a> {
    /// A whole row, counted from 1.
    pub(crate) fn of_row(path: &'a Path, row: usize, value: &'a Value) -> Self {
        Self {
            path,
            row,
            key: String::new(),
            value,
        }
    }

    /// The entry `name` of an object; `None` where it is absent or null.
    pub(crate) fn get(&self, name: &str) -> Result<Option<Self>, DataError> {
        let Value::Object(entries) = self.value else {
            return Err(self.refuse("an object", describe(self.value)));
        };
        let value = entries.get(name).filter(|value| !value.is_null());
        Ok(value.map(|value| Self {
            key: self.key_of(name),
            value,
            ..*self
        }))
    }

    /// The entry `name` of an object, which must be there.
    pub(crate) fn require(&self, name: &str, expected: &'static str) -> Result<Self, DataError> {
        let missing = || DataError::Row {
            path: self.path.to_owned(),
            row: self.row,
            key: self.key_of(name),
            expected,
            found: describe(self.value),
        };
        self.get(name)?.ok_or_else(missing)
    }

    /// The string that this is.
    pub(crate) fn text(&self) -> Result<&'a str, DataError> {
        let text = self.value.as_str();
        text.ok_or_else(|| self.refuse("a string", describe(self.value)))
    }

    /// The elements of the array that this is.
    pub(crate) fn items(&self) -> Result<Vec<Self>, DataError> {
        let Value::Array(items) = self.value else {
            return Err(self.refuse("an array", describe(self.value)));
        };
        let item = |(index, value)| Self {
            key: format!("{}[{index}]", self.key),
            value,
            ..*self
        };
        Ok(items.iter().enumerate().map(item).collect())
    }

    /// The strings of the array that this is.
    pub(crate) fn texts(&self) -> Result<Vec<String>, DataError> {
        self.items()?
            .iter()
            .map(|item| item.text().map(str::to_owned))
            .collect()
    }

    /// The complaint that something else belongs here.
    pub(crate) fn refuse(&self, expected: &'static str, found: String) -> DataError {
        DataError::Row {
            path: self.path.to_owned(),
            row: self.row,
            key: self.key.clone(),
            expected,
            found,
        }
    }

    fn key_of(&self, name: &str) -> String {
        if self.key.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.key)
        }
    }
}

/// What a value is, in words, for complaints.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Number(value) => format!("the number {value}"),
        Value::String(_) => "a string".to_owned(),
        Value::Array(items) => format!("an array of {}", items.len()),
        Value::Object(entries) if entries.is_empty() => "an empty object".to_owned(),
        Value::Object(entries) => {
            let keys: Vec<_> = entries.keys().map(String::as_str).collect();
            format!("an object with {}", keys.join(", "))
        }
    }
}

/// The records of an array of rows, numbered from 1; an empty array is an error.
pub(crate) fn records(
    path: &Path,
    rows: &[Value],
    record: impl Fn(&Field, usize) -> Result<Record, DataError>,
) -> Result<Vec<Record>, DataError> {
    if rows.is_empty() {
        return Err(DataError::NoRows {
            path: path.to_owned(),
        });
    }
    let numbered = rows.iter().zip(1..);
    numbered
        .map(|(value, number)| record(&Field::of_row(path, number, value), number))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn complaints_name_the_place() {
        let row = json!({"Answer": {"Aliases": ["a", 3]}, "Question": null});
        let row = Field::of_row(Path::new("t.json"), 7, &row);
        assert!(row.get("Question").unwrap().is_none());
        let missing = row
            .require("Question", "the question")
            .err()
            .unwrap()
            .to_string();
        let wanted = "t.json, row 7, `Question`: expected the question, \
                      found an object with Answer, Question";
        assert_eq!(missing, wanted);
        let answer = row.require("Answer", "an answer").unwrap();
        let error = answer
            .require("Aliases", "aliases")
            .unwrap()
            .texts()
            .unwrap_err();
        let wanted = "t.json, row 7, `Answer.Aliases[1]`: expected a string, found the number 3";
        assert_eq!(error.to_string(), wanted);
    }

    #[test]
    fn malformed_json_is_placed_by_line_and_column() {
        let error = parse(Path::new("t.json"), 4, "{\n\"a\" 1}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "t.json:5:5: malformed JSON: expected `:`"
        );
    }
}
