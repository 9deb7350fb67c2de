//! Reads rows of JSON files; errors name file, row and key.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use serde_json::{Map, Value};

use crate::{DataError, Record};

/// Size limit of a file, in bytes.
const MAX_BYTES: u64 = 16 << 30;

/// Reads a text file and strips its byte order mark.
///
/// # Errors
/// When it is not a regular file (a pipe may never end, a device has no size), is larger than 16
/// GiB or than memory, cannot be read, or is not UTF-8.
pub fn read_text(path: impl AsRef<Path>) -> Result<String, DataError> {
    let path = path.as_ref();
    let refuse = |cause| DataError::Read {
        path: path.to_owned(),
        cause,
    };
    let bytes = read_bytes(path).map_err(refuse)?;
    if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
        return Err(DataError::Encoding {
            path: path.to_owned(),
            line: 1,
            found: "UTF-16".to_owned(),
        });
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        DataError::Encoding {
            path: path.to_owned(),
            line: 1 + bytes[..good].iter().filter(|&&byte| byte == b'\n').count(),
            found: format!("the byte 0x{:02X}", bytes[good]),
        }
    })?;
    Ok(text
        .strip_prefix('\u{feff}')
        .map(str::to_owned)
        .unwrap_or(text))
}

pub(crate) fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    // Checked before opening: opening a pipe without a writer blocks.
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        let cause = "it is not a regular file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, cause));
    }
    if metadata.len() > MAX_BYTES {
        let cause = format!(
            "it has {} bytes: expected at most {MAX_BYTES}",
            metadata.len()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, cause));
    }
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(metadata.len() as usize)
        .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    fs::File::open(path)?
        .take(MAX_BYTES)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a JSON array of objects or JSON Lines. Each row comes with its number from 1: the index in
/// the array, or the line.
pub(crate) fn read_rows(path: &Path) -> Result<Vec<(usize, Value)>, DataError> {
    let text = read_text(path)?;
    let rows = if text.trim_start().starts_with('[') {
        match parse(path, 1, &text)? {
            Value::Array(rows) => (1..).zip(rows).collect(),
            other => vec![(1, other)],
        }
    } else {
        lines(path, &text)?
    };
    if rows.is_empty() {
        Err(DataError::NoRows {
            path: path.to_owned(),
        })
    } else {
        Ok(rows)
    }
}

fn lines(path: &Path, text: &str) -> Result<Vec<(usize, Value)>, DataError> {
    let lines = (1..).zip(text.lines());
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    let rows = lines.map(|(number, line)| Ok((number, parse(path, number, line)?)));
    rows.collect::<Result<_, _>>().map_err(|error| {
        match serde_json::from_str::<Value>(text) {
            // A single object that spans several lines.
            Ok(whole) => DataError::Layout {
                path: path.to_owned(),
                expected: "JSON Lines, one object a line, or one array of objects",
                found: describe(&whole),
            },
            Err(_) => error,
        }
    })
}

/// `None` if the file does not exist.
pub(crate) fn if_there<T>(read: Result<T, DataError>) -> Result<Option<T>, DataError> {
    match read {
        Err(DataError::Read { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

pub(crate) fn read_json(path: &Path) -> Result<Value, DataError> {
    parse(path, 1, &read_text(path)?)
}

/// Parses `text`, which starts at line `first_line` of the file.
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

/// A value within a row, with its location.
#[derive(Clone)]
pub(crate) struct Field<'a> {
    path: &'a Path,
    row: usize,
    key: String,
    value: &'a Value,
}

impl<'a> Field<'a> {
    pub(crate) fn of_row(path: &'a Path, row: usize, value: &'a Value) -> Self {
        Self {
            path,
            row,
            key: String::new(),
            value,
        }
    }

    /// The entry `name` of an object; `None` if it is absent or null.
    pub(crate) fn get(&self, name: &str) -> Result<Option<Self>, DataError> {
        let value = self.entries()?.get(name).filter(|value| !value.is_null());
        Ok(value.map(|value| Self {
            key: self.key_of(name),
            value,
            ..*self
        }))
    }

    pub(crate) fn require(&self, name: &str, expected: &'static str) -> Result<Self, DataError> {
        self.get(name)?.ok_or_else(|| self.missing(name, expected))
    }

    pub(crate) fn missing(&self, name: &str, expected: &'static str) -> DataError {
        DataError::Row {
            path: self.path.to_owned(),
            row: self.row,
            key: self.key_of(name),
            expected,
            found: describe(self.value),
        }
    }

    pub(crate) fn value(&self) -> &'a Value {
        self.value
    }

    pub(crate) fn entries(&self) -> Result<&'a Map<String, Value>, DataError> {
        let entries = self.value.as_object();
        entries.ok_or_else(|| self.refuse("an object", describe(self.value)))
    }

    pub(crate) fn text(&self) -> Result<&'a str, DataError> {
        let text = self.value.as_str();
        text.ok_or_else(|| self.refuse("a string", describe(self.value)))
    }

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

    pub(crate) fn texts(&self) -> Result<Vec<String>, DataError> {
        self.items()?
            .iter()
            .map(|item| item.text().map(str::to_owned))
            .collect()
    }

    /// The error for an unexpected value.
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

/// Describes a value for an error message.
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

pub(crate) fn records(
    path: &Path,
    rows: impl IntoIterator<Item = (usize, Value)>,
    record: impl Fn(&Field, usize) -> Result<Record, DataError>,
) -> Result<Vec<Record>, DataError> {
    let rows = rows.into_iter();
    let records = rows.map(|(number, value)| record(&Field::of_row(path, number, &value), number));
    records.collect()
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
