//! A file of verdicts, to be filled in by people or other tools, and to resume from.
//!
//! JSON lines of `{"instruction", "input", "first", "second", "judge", "verdict", "reply"}`. A
//! verdict is `"1"`, `"2"`, `"tie"`, `"unclear"`, or null if it is missing. Verdicts are kept by
//! texts and judge, so several judges may share a file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::json_lines::JsonLines;
use crate::{Comparison, EvalError, Judge, Judgement, Verdict};

/// The verdicts of one judge in a file.
#[derive(Debug)]
pub struct VerdictFile {
    path: PathBuf,
    lines: JsonLines,
    judge: String,
    given: Given,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Texts {
    instruction: String,
    #[serde(default)]
    input: String,
    first: String,
    second: String,
}

#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    texts: Texts,
    judge: String,
    #[serde(default)]
    verdict: Option<Verdict>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reply: Option<String>,
}

impl Texts {
    fn of(comparison: &Comparison) -> Self {
        Self {
            instruction: comparison.instruction.to_owned(),
            input: comparison.input.to_owned(),
            first: comparison.first.to_owned(),
            second: comparison.second.to_owned(),
        }
    }
}

impl VerdictFile {
    /// Opens the file or creates it, for the verdicts of the judge `judge`. An incomplete last
    /// line, as a crash leaves, is removed.
    ///
    /// # Errors
    /// If a line is not a comparison, or the file is open in another process or cannot be read or
    /// written.
    pub fn open(path: impl AsRef<Path>, judge: impl Into<String>) -> Result<Self, EvalError> {
        let path = path.as_ref();
        let (mut lines, text) = JsonLines::open(path)?;
        let judge = judge.into();
        let (given, whole) = read(path, &text, &judge)?;
        lines.truncate(whole)?;
        // An editor may have omitted the last line break.
        if text[..whole].last().is_some_and(|last| *last != b'\n') {
            lines.end_line()?;
        }
        Ok(Self {
            path: path.to_owned(),
            lines,
            judge,
            given,
        })
    }

    /// The verdict on a comparison, if the file has one.
    pub fn get(&self, comparison: &Comparison) -> Option<Verdict> {
        self.given.get(&Texts::of(comparison)).copied().flatten()
    }

    /// Adds a verdict.
    ///
    /// # Errors
    /// I/O errors.
    pub fn record(
        &mut self,
        comparison: &Comparison,
        judgement: &Judgement,
    ) -> Result<(), EvalError> {
        let verdict = Some(judgement.verdict);
        self.write(comparison, verdict, judgement.reply.clone())
    }

    /// Adds a comparison without a verdict, unless the file has it.
    ///
    /// # Errors
    /// I/O errors.
    pub fn request(&mut self, comparison: &Comparison) -> Result<(), EvalError> {
        if self.given.contains_key(&Texts::of(comparison)) {
            Ok(())
        } else {
            self.write(comparison, None, None)
        }
    }

    pub(crate) fn missing(&self, missing: usize) -> EvalError {
        EvalError::MissingVerdicts {
            path: self.path.clone(),
            missing,
        }
    }

    fn write(
        &mut self,
        comparison: &Comparison,
        verdict: Option<Verdict>,
        reply: Option<String>,
    ) -> Result<(), EvalError> {
        let texts = Texts::of(comparison);
        let line = Line {
            texts: texts.clone(),
            judge: self.judge.clone(),
            verdict,
            reply,
        };
        self.lines.append(&line)?;
        self.given.insert(texts, verdict);
        Ok(())
    }
}

type Given = HashMap<Texts, Option<Verdict>>;

/// The verdicts of this judge, and the number of bytes in whole lines.
fn read(path: &Path, bytes: &[u8], judge: &str) -> Result<(Given, usize), EvalError> {
    let mut given = Given::new();
    let mut start = 0;
    for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            start += line.len();
            continue;
        }
        match serde_json::from_slice::<Line>(line) {
            Ok(line) if line.judge != judge => {}
            // A later verdict replaces an earlier one or the request for it.
            Ok(line) => {
                let verdict = line.verdict;
                let known = given.entry(line.texts).or_insert(verdict);
                *known = verdict.or(*known);
            }
            // A crash truncates a line that this crate wrote. Other invalid lines, such as one that
            // is being edited, are refused.
            Err(error)
                if line.last() != Some(&b'\n')
                    && begins_as_ours(line)
                    && ends_too_early(&error) =>
            {
                break;
            }
            Err(error) => {
                return Err(EvalError::Content {
                    path: path.to_owned(),
                    line: Some(index + 1),
                    expected: "{\"instruction\", \"input\", \"first\", \"second\", \"judge\", \"verdict\"} with a verdict of \"1\", \"2\", \"tie\" or null",
                    found: error.to_string(),
                });
            }
        }
        start += line.len();
    }
    Ok((given, start))
}

/// Whether the line is only truncated. A cut within a character gives another error than the end of
/// the text.
fn ends_too_early(error: &serde_json::Error) -> bool {
    error.is_eof() || error.to_string().starts_with("invalid unicode code point")
}

fn begins_as_ours(line: &[u8]) -> bool {
    line.iter().zip(b"{\"instruction\":").all(|(a, b)| a == b)
}

/// A judge that reads the file and fails for missing verdicts.
impl Judge for VerdictFile {
    fn compare(&mut self, comparison: &Comparison) -> Result<Judgement, EvalError> {
        match self.get(comparison) {
            Some(verdict) => Ok(Judgement {
                verdict,
                reply: None,
            }),
            None => {
                self.request(comparison)?;
                Err(self.missing(1))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPARISON: Comparison = Comparison {
        instruction: "Name a colour.",
        input: "",
        first: "Red.",
        second: "Zürich",
    };

    #[test]
    fn people_fill_in_what_was_requested() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("verdicts.jsonl");
        let mut file = VerdictFile::open(&path, "people").unwrap();
        let error = file.compare(&COMPARISON).unwrap_err().to_string();
        assert!(error.contains("verdicts.jsonl"), "{error}");
        file.request(&COMPARISON).unwrap();
        drop(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1);
        let filled = text.trim_end().replace("null", "\"1\"");
        std::fs::write(&path, filled).unwrap();
        let mut file = VerdictFile::open(&path, "people").unwrap();
        assert_eq!(file.compare(&COMPARISON).unwrap().verdict, Verdict::First);
        assert_eq!(file.get(&COMPARISON.reversed()), None);
        file.request(&COMPARISON.reversed()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
        drop(file);
        let other = VerdictFile::open(&path, "somebody else").unwrap();
        assert_eq!(other.get(&COMPARISON), None, "no judge answers for another");
    }

    #[test]
    fn a_kill_at_any_byte_loses_one_verdict_at_most() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("verdicts.jsonl");
        let mut file = VerdictFile::open(&path, "people").unwrap();
        let judgement = |verdict| Judgement {
            verdict,
            reply: Some("because\nof ü".to_owned()),
        };
        file.record(&COMPARISON, &judgement(Verdict::Tie)).unwrap();
        file.record(&COMPARISON.reversed(), &judgement(Verdict::Second))
            .unwrap();
        drop(file);
        let whole = std::fs::read(&path).unwrap();
        let first = whole.iter().position(|byte| *byte == b'\n').unwrap();
        for length in first..=whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let file = VerdictFile::open(&path, "people").unwrap();
            assert_eq!(file.get(&COMPARISON), Some(Verdict::Tie), "{length}");
        }
    }

    #[test]
    fn what_is_no_verdict_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("verdicts.jsonl");
        let texts =
            "\"instruction\": \"a\", \"first\": \"b\", \"second\": \"c\", \"judge\": \"people\"";
        for text in [
            format!("{{{texts}, \"verdict\": \"3\"}}\n"),
            format!("{{{texts}}}\nprecious"),
            // A line that is being edited.
            format!("{{{}, \"verdict\": 1}}", texts.replace(": ", ":")),
            "precious".to_owned(),
        ] {
            std::fs::write(&path, &text).unwrap();
            assert!(VerdictFile::open(&path, "people").is_err(), "{text}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
