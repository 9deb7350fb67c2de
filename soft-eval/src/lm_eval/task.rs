//! The tasks: documents of a data set as questions.

use std::path::Path;

use serde_json::Value;

use crate::EvalError;
use crate::files::read_text;

/// A task of lm-eval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// AI2's science questions, easy ones.
    ArcEasy,
    /// AI2's science questions, hard ones.
    ArcChallenge,
    /// Questions about a passage, answered by yes or no.
    BoolQ,
    /// Which ending of a description is plausible.
    HellaSwag,
    /// Which of two ways to do something works.
    Piqa,
    /// Closed-book questions, answered by generation.
    TriviaQa,
}

/// A question, as the harness asks it.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The text before what is scored or generated.
    pub context: String,
    /// What is asked.
    pub asked: Asked,
    /// The row of the data set.
    pub row: Value,
}

/// What is asked about a context.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    /// Which of these texts follows.
    Choices {
        /// The texts.
        choices: Vec<String>,
        /// Index of the right one.
        right: usize,
    },
    /// An answer in free text; any of these is right.
    Answer(Vec<String>),
}

impl Task {
    /// All tasks.
    pub const ALL: [Self; 6] = [
        Self::ArcEasy,
        Self::ArcChallenge,
        Self::BoolQ,
        Self::HellaSwag,
        Self::Piqa,
        Self::TriviaQa,
    ];

    /// lm-eval's name of the task.
    pub fn name(self) -> &'static str {
        match self {
            Self::ArcEasy => "arc_easy",
            Self::ArcChallenge => "arc_challenge",
            Self::BoolQ => "boolq",
            Self::HellaSwag => "hellaswag",
            Self::Piqa => "piqa",
            Self::TriviaQa => "triviaqa",
        }
    }

    /// lm-eval's version of the task.
    pub fn version(self) -> f64 {
        match self {
            Self::BoolQ => 2.0,
            Self::TriviaQa => 3.0,
            _ => 1.0,
        }
    }

    /// lm-eval's name of what happens to a response before it is scored.
    pub fn filter(self) -> &'static str {
        match self {
            Self::TriviaQa => "remove_whitespace",
            _ => "none",
        }
    }

    /// Reads a data set: JSON lines, each a row as on the Hugging Face hub. For TriviaQA also the
    /// official file.
    ///
    /// # Errors
    /// When the file cannot be read, has no rows, or a row lacks a key.
    pub fn read(self, path: &Path) -> Result<Vec<Document>, EvalError> {
        let text = read_text(path)?;
        let rows = match self {
            Self::TriviaQa => official_rows(&text),
            _ => None,
        };
        let numbered = match rows {
            Some(rows) => rows.into_iter().map(|row| (None, row)).collect(),
            None => lines(path, &text)?,
        };
        let document = |(line, row): (Option<usize>, Value)| {
            self.document(&row).map_err(|expected| EvalError::Content {
                path: path.to_owned(),
                line,
                expected,
                found: shortened(&row),
            })
        };
        let documents = numbered.into_iter().map(document);
        let documents = documents.collect::<Result<Vec<_>, _>>()?;
        match documents.is_empty() {
            false => Ok(documents),
            true => Err(EvalError::Content {
                path: path.to_owned(),
                line: None,
                expected: "at least one row",
                found: "none".to_owned(),
            }),
        }
    }

    /// A row as a question; the error says what is expected of the row.
    fn document(self, row: &Value) -> Result<Document, &'static str> {
        let (found, expected) = match self {
            Self::ArcEasy | Self::ArcChallenge => (
                arc(row),
                "`question`, `choices` with `text` and `label`, and `answerKey`",
            ),
            Self::BoolQ => (
                boolq(row),
                "`passage`, `question`, and `label` (0 or 1) or `answer`",
            ),
            Self::HellaSwag => (
                hellaswag(row),
                "`activity_label`, `ctx_a`, `ctx_b`, `endings` and `label`",
            ),
            Self::Piqa => (piqa(row), "`goal`, `sol1`, `sol2` and `label`"),
            Self::TriviaQa => (trivia_qa(row), "`question` and `answer` with `aliases`"),
        };
        let (context, asked) = found.ok_or(expected)?;
        Ok(Document {
            context,
            asked,
            row: row.clone(),
        })
    }
}

fn arc(row: &Value) -> Option<(String, Asked)> {
    let choices = row.get("choices")?;
    let (labels, key) = (texts(choices.get("label"))?, text(row, "answerKey")?);
    let right = labels.iter().position(|label| label == key);
    let asked = choice(texts(choices.get("text"))?, right)?;
    Some((question_of(text(row, "question")?), asked))
}

fn boolq(row: &Value) -> Option<(String, Asked)> {
    let (passage, question) = (text(row, "passage")?, text(row, "question")?);
    let answer = row.get("answer").and_then(Value::as_bool).map(usize::from);
    let choices = ["no", "yes"].map(str::to_owned).to_vec();
    let asked = choice(choices, index(row).or(answer))?;
    Some((format!("{passage}\nQuestion: {question}?\nAnswer:"), asked))
}

fn hellaswag(row: &Value) -> Option<(String, Asked)> {
    let (label, a, b) = (
        text(row, "activity_label")?,
        text(row, "ctx_a")?,
        text(row, "ctx_b")?,
    );
    let endings = texts(row.get("endings"))?;
    let endings = endings.iter().map(|ending| cleaned(ending)).collect();
    let context = cleaned(&format!("{label}: {a} {}", capitalized(b)));
    Some((context, choice(endings, index(row))?))
}

fn piqa(row: &Value) -> Option<(String, Asked)> {
    let solutions = [text(row, "sol1")?, text(row, "sol2")?].map(str::to_owned);
    let asked = choice(solutions.to_vec(), index(row))?;
    Some((question_of(text(row, "goal")?), asked))
}

fn trivia_qa(row: &Value) -> Option<(String, Asked)> {
    let aliases = texts(row.get("answer")?.get("aliases"))?;
    let asked = (!aliases.is_empty()).then_some(Asked::Answer(aliases))?;
    let question = text(row, "question")?;
    Some((format!("Question: {question}?\nAnswer:"), asked))
}

impl std::str::FromStr for Task {
    type Err = EvalError;

    fn from_str(name: &str) -> Result<Self, EvalError> {
        let named = Self::ALL.into_iter().find(|task| task.name() == name);
        named.ok_or_else(|| EvalError::Setting {
            setting: "task",
            expected: "arc_easy, arc_challenge, boolq, hellaswag, piqa or triviaqa",
            found: name.to_owned(),
        })
    }
}

fn question_of(text: &str) -> String {
    format!("Question: {text}\nAnswer:")
}

fn text<'a>(row: &'a Value, key: &str) -> Option<&'a str> {
    row.get(key)?.as_str()
}

/// A choice among at least two texts, one of which is right.
fn choice(choices: Vec<String>, right: Option<usize>) -> Option<Asked> {
    let right = right.filter(|right| *right < choices.len())?;
    (choices.len() > 1).then_some(Asked::Choices { choices, right })
}

/// `label` as a number, or as a number in a string.
fn index(row: &Value) -> Option<usize> {
    let label = row.get("label")?;
    let number = label.as_u64().map(|label| label as usize);
    number.or_else(|| label.as_str()?.parse().ok())
}

fn texts(value: Option<&Value>) -> Option<Vec<String>> {
    let items = value?.as_array()?.iter();
    items.map(|item| Some(item.as_str()?.to_owned())).collect()
}

/// The rows of TriviaQA's official file, with the keys they have on the hub.
fn official_rows(text: &str) -> Option<Vec<Value>> {
    let file: Value = serde_json::from_str(text).ok()?;
    let row = |row: &Value| {
        serde_json::json!({
            "question": row["Question"],
            "question_id": row["QuestionId"],
            "answer": {"aliases": row["Answer"]["Aliases"], "value": row["Answer"]["Value"]},
        })
    };
    Some(file.get("Data")?.as_array()?.iter().map(row).collect())
}

/// The rows of JSON lines, with the number of each line.
fn lines(path: &Path, text: &str) -> Result<Vec<(Option<usize>, Value)>, EvalError> {
    let lines = (1..).zip(text.lines());
    let filled = lines.filter(|(_, line)| !line.trim().is_empty());
    let row = |(line, text): (usize, &str)| match serde_json::from_str(text) {
        Ok(row) => Ok((Some(line), row)),
        Err(error) => Err(EvalError::Content {
            path: path.to_owned(),
            line: Some(line),
            expected: "a JSON object",
            found: error.to_string(),
        }),
    };
    filled.map(row).collect()
}

fn shortened(row: &Value) -> String {
    let text = row.to_string();
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Python's `str.capitalize`.
fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().into_iter().flat_map(char::to_uppercase);
    first.collect::<String>() + &chars.as_str().to_lowercase()
}

/// Removes the artifacts of WikiHow from a text of HellaSwag.
fn cleaned(text: &str) -> String {
    let text = text.trim().replace(" [title]", ". ");
    without_brackets(&text).replace("  ", " ")
}

/// Removes every `[...]` within a line.
fn without_brackets(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('[') {
        let end = rest[open..].find([']', '\n']).map(|end| open + end);
        match end.filter(|&end| rest[end..].starts_with(']')) {
            Some(end) => {
                kept.push_str(&rest[..open]);
                rest = &rest[end + 1..];
            }
            None => {
                kept.push_str(&rest[..=open]);
                rest = &rest[open + 1..];
            }
        }
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn choices(task: Task, row: Value) -> (String, Vec<String>, usize) {
        let document = task.document(&row).unwrap();
        match document.asked {
            Asked::Choices { choices, right } => (document.context, choices, right),
            Asked::Answer(_) => panic!("{row}"),
        }
    }

    #[test]
    fn rows_become_the_questions_of_the_harness() {
        let arc = json!({"question": "Q?", "answerKey": "C",
            "choices": {"text": ["x", "y", "z"], "label": ["A", "B", "C"]}});
        let (context, texts, right) = choices(Task::ArcEasy, arc);
        assert_eq!((context.as_str(), right), ("Question: Q?\nAnswer:", 2));
        assert_eq!(texts, ["x", "y", "z"]);
        let boolq = json!({"passage": "P.", "question": "is it", "label": 1});
        let (context, _, right) = choices(Task::BoolQ, boolq);
        assert_eq!(
            (context.as_str(), right),
            ("P.\nQuestion: is it?\nAnswer:", 1)
        );
        let hellaswag = json!({"activity_label": "Cooking", "ctx_a": "She stirs.",
            "ctx_b": "the SOUP", "label": "1",
            "endings": ["boils [step] over.", "[header] Stop [title] Now"]});
        let (context, texts, right) = choices(Task::HellaSwag, hellaswag);
        assert_eq!(
            (context.as_str(), right),
            ("Cooking: She stirs. The soup", 1)
        );
        assert_eq!(
            texts,
            ["boils over.", " Stop.  Now".replace("  ", " ").as_str()]
        );
        let trivia = json!({"question": "Who", "answer": {"aliases": ["A", "B"], "value": "A"}});
        let document = Task::TriviaQa.document(&trivia).unwrap();
        assert_eq!(document.context, "Question: Who?\nAnswer:");
        assert_eq!(document.asked, Asked::Answer(vec!["A".into(), "B".into()]));
    }

    #[test]
    fn rows_that_lack_something_are_refused() {
        let piqa = json!({"goal": "g", "sol1": "a", "sol2": "b", "label": 2});
        assert!(Task::Piqa.document(&piqa).is_err());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        std::fs::write(&path, "{\"goal\": \"g\"}\n").unwrap();
        let message = Task::Piqa.read(&path).unwrap_err().to_string();
        assert!(
            message.contains("line 1") && message.contains("sol1"),
            "{message}"
        );
        std::fs::write(&path, "\n").unwrap();
        assert!(Task::Piqa.read(&path).is_err());
        let message = "mmlu".parse::<Task>().unwrap_err().to_string();
        assert!(message.contains("hellaswag"), "{message}");
    }

    #[test]
    fn brackets_end_within_a_line() {
        assert_eq!(without_brackets("a [b] c[d]"), "a  c");
        assert_eq!(without_brackets("a [b\n] c"), "a [b\n] c");
        assert_eq!(without_brackets("[a [b] c]"), " c]");
    }
}
