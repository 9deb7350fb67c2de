//! A file of results that an interrupted evaluation is resumed from.
//!
//! The file has JSON lines: the settings, then one line per result, written as soon as it is
//! recorded. A journal can only be resumed with the same settings. An incomplete last line, as a
//! crash leaves, is removed; nothing else is changed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::EvalError;
use crate::json_lines::JsonLines;

/// Results by key, kept in a file.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    /// `None` if results are not saved.
    lines: Option<JsonLines>,
    entries: HashMap<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct Entry<T> {
    key: String,
    value: T,
}

#[derive(Serialize, Deserialize)]
struct Header {
    settings: Value,
}

impl Journal {
    /// A journal in memory only.
    pub fn unsaved() -> Self {
        Self {
            path: PathBuf::new(),
            lines: None,
            entries: HashMap::new(),
        }
    }

    /// Opens the journal at `path`, or creates it.
    ///
    /// # Errors
    /// If the file has other settings, is not a journal, is open in another process, or cannot be
    /// read or written.
    pub fn open(path: impl AsRef<Path>, settings: &impl Serialize) -> Result<Self, EvalError> {
        let path = path.as_ref();
        let settings = serde_json::to_value(settings).map_err(|error| EvalError::Content {
            path: path.to_owned(),
            line: None,
            expected: "settings that can be written as JSON",
            found: error.to_string(),
        })?;
        let (file, bytes) = JsonLines::open(path)?;
        // A crash may leave part of a character.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n');
        let whole = whole.map_or(0, |end| end + 1);
        let text = std::str::from_utf8(&bytes[..whole]);
        let text = text.map_err(|error| content(path, 0, "UTF-8", &error.to_string()))?;
        let mut lines = text.lines().enumerate();
        let begun = lines.next();
        if let Some((_, header)) = begun {
            let header: Header = parse(path, 1, "the settings of a journal", header)?;
            check(path, &header.settings, &settings)?;
        } else if !bytes.iter().zip(b"{\"settings\":").all(|(a, b)| a == b) {
            // Neither a whole line nor the beginning of a header: not a journal.
            return Err(content(
                path,
                1,
                "the settings of a journal",
                "another text",
            ));
        }
        let mut entries = HashMap::new();
        for (index, line) in lines {
            let entry: Entry<Value> =
                parse(path, index + 1, "a result, {\"key\", \"value\"}", line)?;
            entries.insert(entry.key, entry.value);
        }
        file.truncate(whole)?;
        let mut journal = Self {
            path: path.to_owned(),
            lines: Some(file),
            entries,
        };
        if begun.is_none() {
            journal.write(&Header { settings })?;
        }
        Ok(journal)
    }

    /// The result with this key, if there is one.
    ///
    /// # Errors
    /// If the result is of another type.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, EvalError> {
        let Some(value) = self.entries.get(key) else {
            return Ok(None);
        };
        let read = serde_json::from_value(value.clone());
        read.map(Some).map_err(|error| EvalError::Content {
            path: self.path.clone(),
            line: None,
            expected: "a result of this evaluation",
            found: format!("`{key}`: {error}"),
        })
    }

    /// Number of results.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no result yet.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a result. It replaces an earlier one with the same key.
    ///
    /// # Errors
    /// I/O errors; a value that JSON cannot represent.
    pub fn record(&mut self, key: &str, value: &impl Serialize) -> Result<(), EvalError> {
        let value = serde_json::to_value(value).map_err(|error| {
            content(
                &self.path,
                0,
                "a value that can be written as JSON",
                &error.to_string(),
            )
        })?;
        self.write(&Entry {
            key: key.to_owned(),
            value: &value,
        })?;
        self.entries.insert(key.to_owned(), value);
        Ok(())
    }

    fn write(&mut self, line: &impl Serialize) -> Result<(), EvalError> {
        match &mut self.lines {
            Some(lines) => lines.append(line),
            None => Ok(()),
        }
    }
}

fn parse<T: DeserializeOwned>(
    path: &Path,
    line: usize,
    expected: &'static str,
    text: &str,
) -> Result<T, EvalError> {
    serde_json::from_str(text).map_err(|error| content(path, line, expected, &error.to_string()))
}

fn content(path: &Path, line: usize, expected: &'static str, found: &str) -> EvalError {
    EvalError::Content {
        path: path.to_owned(),
        line: (line > 0).then_some(line),
        expected,
        found: found.to_owned(),
    }
}

/// Returns an error that names the first setting that differs.
fn check(path: &Path, was: &Value, now: &Value) -> Result<(), EvalError> {
    if was == now {
        return Ok(());
    }
    let (old, new) = (was.as_object(), now.as_object());
    let keys = old.into_iter().chain(new).flat_map(|object| object.keys());
    let differs = |key: &&String| was.get(key.as_str()) != now.get(key.as_str());
    let key = keys.into_iter().find(differs).cloned().unwrap_or_default();
    let show = |value: &Value| match value.get(&key) {
        Some(value) => value.to_string(),
        None if key.is_empty() => value.to_string(),
        None => "absent".to_owned(),
    };
    Err(EvalError::OtherSettings {
        path: path.to_owned(),
        was: show(was),
        now: show(now),
        key,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn goes_on_after_a_kill_at_any_byte() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.jsonl");
        let settings = json!({"model": "m", "exits": [2, 4]});
        let mut journal = Journal::open(&path, &settings).unwrap();
        journal.record("a", &"Zürich, or\nso").unwrap();
        journal.record("b", &7).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let second = Journal::open(&path, &settings).unwrap_err();
        assert!(matches!(second, EvalError::InUse { .. }), "{second}");
        drop(journal);
        for length in 0..=whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let mut journal = Journal::open(&path, &settings).unwrap();
            let lines = whole[..length]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count();
            assert_eq!(journal.len(), lines.saturating_sub(1), "{length}");
            for (key, value) in [("a", json!("Zürich, or\nso")), ("b", json!(7))] {
                if journal.get::<Value>(key).unwrap().is_none() {
                    journal.record(key, &value).unwrap();
                }
            }
            assert_eq!(std::fs::read(&path).unwrap(), whole, "{length}");
        }
    }

    #[test]
    fn other_settings_and_other_files_are_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.jsonl");
        Journal::open(&path, &json!({"model": "m", "limit": 5})).unwrap();
        let error = Journal::open(&path, &json!({"model": "m", "limit": 6})).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("`limit` was 5, now it is 6"), "{message}");
        for text in [
            "precious",
            "precious\nlines\n",
            "{\"settings\":{}}\nprecious\n",
        ] {
            std::fs::write(&path, text).unwrap();
            assert!(Journal::open(&path, &json!({})).is_err(), "{text}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
