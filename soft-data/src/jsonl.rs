//! JSON Lines: one row per line, a prompt with its response, a conversation, or a text.
//!
//! Knows the three layouts; how a conversation becomes text is `chatml`'s business.

use std::path::Path;

use crate::rows::{Field, parse, read_text};
use crate::{Body, DataError, Message, Record, Role};

const MIXED: &str = "either `messages`, or `prompt` with `response`, or `text`";

/// Reads a file with one object per line: `{"prompt": .., "response": ..}`,
/// `{"messages": [{"role": "user", "content": ..}, {"role": "assistant", "content": ..}, ..]}` or `{"text": ..}`.
///
/// All kinds may stand in one file. Of a text every token is learnt: for pre-training, and for distillation, which needs no
/// answers. Blank lines are skipped, other keys ignored. Roles are
/// `system`, `user` and `assistant`. A [`Record::row`] is its line number.
///
/// # Errors
/// When the file cannot be read, has no rows, a line is not JSON, or a row has no response, an
/// unknown role or both layouts at once.
pub fn read_jsonl(path: impl AsRef<Path>) -> Result<Vec<Record>, DataError> {
    let path = path.as_ref();
    let text = read_text(path)?;
    let mut records = Vec::new();
    for (index, line) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let value = parse(path, index + 1, line)?;
        let row = Field::of_row(path, index + 1, &value);
        records.push(Record {
            row: index + 1,
            body: body(&row)?,
            trivia: None,
        });
    }
    if records.is_empty() {
        return Err(DataError::NoRows {
            path: path.to_owned(),
        });
    }
    Ok(records)
}

fn body(row: &Field) -> Result<Body, DataError> {
    // Beside another layout a text is one of the keys that are passed over.
    let others = ["prompt", "response", "messages"].map(|key| row.get(key));
    let alone = others.into_iter().all(|other| matches!(other, Ok(None)));
    if alone && let Some(text) = row.get("text")? {
        return Ok(Body::Completion {
            prompt: String::new(),
            response: spoken(&text)?.to_owned(),
        });
    }
    let Some(messages) = row.get("messages")? else {
        let prompt = row.require("prompt", MIXED)?.text()?.to_owned();
        let response = row.require("response", "the response")?;
        return Ok(Body::Completion {
            prompt,
            response: spoken(&response)?.to_owned(),
        });
    };
    for other in ["prompt", "response"] {
        if let Some(field) = row.get(other)? {
            return Err(field.refuse(MIXED, format!("`messages` and `{other}`")));
        }
    }
    conversation(&messages)
}

fn conversation(messages: &Field) -> Result<Body, DataError> {
    let turns = messages
        .items()?
        .iter()
        .map(message)
        .collect::<Result<Vec<_>, _>>()?;
    if !turns.iter().any(|turn| turn.role == Role::Assistant) {
        let found = match turns.len() {
            0 => "no messages".to_owned(),
            number => format!("{number} messages, none of them the assistant's"),
        };
        return Err(messages.refuse("at least one message of the assistant", found));
    }
    Ok(Body::Chat(turns))
}

fn message(message: &Field) -> Result<Message, DataError> {
    let name = message.require("role", "the speaker's role")?;
    let role = Role::from_name(name.text()?).ok_or_else(|| {
        let found = name.text().unwrap_or_default();
        name.refuse("system, user or assistant", format!("`{found}`"))
    })?;
    let content = message.require("content", "what is said")?;
    let content = if role == Role::Assistant {
        spoken(&content)?
    } else {
        content.text()?
    };
    Ok(Message {
        role,
        content: content.to_owned(),
    })
}

/// A response, which must say something.
fn spoken<'a>(field: &Field<'a>) -> Result<&'a str, DataError> {
    let text = field.text()?;
    if text.trim().is_empty() {
        return Err(field.refuse("a response", "a blank string".to_owned()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(text: &str) -> Result<Vec<Record>, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        fs::write(&path, text).unwrap();
        read_jsonl(&path)
    }

    fn refusal(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn reads_both_layouts_and_counts_lines() {
        let rows = read(
            "\u{feff}{\"prompt\": \"a\", \"response\": \"b\", \"id\": 1}\r\n\n\
             {\"messages\": [{\"role\": \"user\", \"content\": \"c\"}, \
             {\"role\": \"assistant\", \"content\": \"d\"}]}\n",
        )
        .unwrap();
        assert_eq!(rows[0], Record::completion(1, "a", "b"));
        let turns = vec![
            Message {
                role: Role::User,
                content: "c".into(),
            },
            Message {
                role: Role::Assistant,
                content: "d".into(),
            },
        ];
        assert_eq!(rows[1], Record::chat(3, turns));
    }

    #[test]
    fn a_text_is_learnt_from_its_start() {
        let rows = read("{\"text\": \"to be or not\"}").unwrap();
        assert_eq!(rows, [Record::completion(1, "", "to be or not")]);
        let beside = "{\"text\": \"a\", \"prompt\": \"b\", \"response\": \"c\"}";
        assert_eq!(read(beside).unwrap(), [Record::completion(1, "b", "c")]);
    }

    #[test]
    fn malformed_lines_are_placed_in_the_file() {
        let error = read("{\"prompt\": \"a\", \"response\": \"b\"}\n{\"prompt\": }\n").unwrap_err();
        assert!(
            matches!(
                error,
                DataError::Json {
                    line: 2,
                    column: 12,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn refusals_name_line_and_key() {
        let good = "{\"prompt\": \"a\", \"response\": \"b\"}\n";
        let message = refusal(&format!("{good}{{\"prompt\": \"a\"}}"));
        assert!(
            message.contains("row 2, `response`: expected the response"),
            "{message}"
        );
        assert!(refusal("{\"response\": \"a\"}").contains("`prompt`: expected either"));
        assert!(
            refusal("{\"prompt\": \"\", \"response\": \" \"}").contains("found a blank string")
        );
        assert!(refusal("{\"prompt\": 1, \"response\": \"b\"}").contains("found the number 1"));
        assert!(refusal("{\"messages\": []}").contains("found no messages"));
        let user = "{\"role\": \"user\", \"content\": \"a\"}";
        assert!(refusal(&format!("{{\"messages\": [{user}]}}")).contains("none of them"));
        let message = refusal("{\"messages\": [{\"role\": \"tool\", \"content\": \"a\"}]}");
        assert!(message.contains("`messages[0].role`"), "{message}");
        assert!(
            message.contains("expected system, user or assistant, found `tool`"),
            "{message}"
        );
        let both = format!("{{\"messages\": [{user}], \"prompt\": \"a\"}}");
        assert!(refusal(&both).contains("found `messages` and `prompt`"));
        assert!(refusal("{\"text\": \" \"}").contains("found a blank string"));
        assert!(matches!(read(" \n"), Err(DataError::NoRows { .. })));
    }
}
