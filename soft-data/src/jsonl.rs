//! JSON Lines: completions, instructions, conversations and plain texts.

use std::path::Path;

use crate::rows::{Field, read_rows, records};
use crate::{Body, Conversation, DataError, Record, alpaca_prompt};

const LAYOUTS: &str = "either `messages` or `conversations`, or `prompt` or `instruction` with `response`, `completion` \
                       or `output`, or `text`";

/// Reads JSON Lines or a JSON array of objects, each in one of these layouts:
///
/// - `{"messages": [{"role": "user", "content": ..}, {"role": "assistant", "content": ..}, ..]}`: a
///   conversation. Roles are `system`, `user`, `assistant` and `tool`. `content` may be an array of
///   text parts; an assistant's message may have `tool_calls` instead. `tools` of the row are
///   passed to the chat template.
/// - `{"conversations": [{"from": "human", "value": ..}, {"from": "gpt", "value": ..}, ..]}`: a
///   conversation in ShareGPT's layout.
/// - `{"prompt": .., "response": ..}` (or `completion`, `output`): the response directly follows
///   the prompt.
/// - `{"instruction": .., "input": .., "response": ..}` (or `completion`, `output`): formatted with
///   Alpaca's [prompt](crate::alpaca_prompt). `input` (or `context`) is optional and may be empty.
/// - `{"text": ..}`: the whole text is supervised. For pre-training, and for distillation, which
///   needs no responses.
///
/// A file may mix layouts. Blank lines and other keys are ignored. [`Record::row`] is the line
/// number, in an array the index from 1.
///
/// # Errors
/// When the file cannot be read, has no rows, a line is not JSON, or a row has no response, an
/// unknown role or contradictory keys.
pub fn read_jsonl(path: impl AsRef<Path>) -> Result<Vec<Record>, DataError> {
    let path = path.as_ref();
    let record = |row: &Field, number| {
        Ok(Record {
            row: number,
            body: body(row)?,
            trivia: None,
        })
    };
    records(path, read_rows(path)?, record)
}

fn body(row: &Field) -> Result<Body, DataError> {
    let response = response(row)?;
    if let Some(conversation) = Conversation::of_row(row)? {
        return match response {
            Some((name, field)) => {
                Err(field.refuse(LAYOUTS, format!("a conversation and `{name}`")))
            }
            None => answered(conversation, row),
        };
    }
    let prompt = prompt(row)?;
    if let Some((_, response)) = response {
        let prompt = match prompt {
            Some(prompt) => prompt,
            None => row.require("prompt", LAYOUTS)?.text()?.to_owned(),
        };
        let response = spoken(&response)?;
        return Ok(Body::Completion { prompt, response });
    }
    // `text` is ignored beside another layout.
    match (prompt, row.get("text")?) {
        (Some(_), _) => Err(row.missing("response", "the response")),
        (None, Some(text)) => Ok(Body::Completion {
            prompt: String::new(),
            response: spoken(&text)?,
        }),
        (None, None) => Err(row.missing("prompt", LAYOUTS)),
    }
}

/// The response of a row, with its key.
fn response<'a>(row: &Field<'a>) -> Result<Option<(&'static str, Field<'a>)>, DataError> {
    let mut found = None;
    for name in ["response", "completion", "output"] {
        let Some(field) = row.get(name)? else {
            continue;
        };
        if let Some((first, _)) = found {
            return Err(field.refuse("one response", format!("`{first}` and `{name}`")));
        }
        found = Some((name, field));
    }
    Ok(found)
}

/// The prompt of a row; an `instruction` is formatted with Alpaca's prompt.
fn prompt(row: &Field) -> Result<Option<String>, DataError> {
    if let Some(prompt) = row.get("prompt")? {
        // These keys would otherwise be dropped silently.
        for name in ["instruction", "input"] {
            if let Some(field) = row.get(name)? {
                return Err(field.refuse("one prompt", format!("`prompt` and `{name}`")));
            }
        }
        return Ok(Some(prompt.text()?.to_owned()));
    }
    let Some(instruction) = row.get("instruction")? else {
        return Ok(None);
    };
    let mut input = "";
    for name in ["input", "context"] {
        let Some(field) = row.get(name)? else {
            continue;
        };
        input = match (input, field.text()?) {
            (found, "") => found,
            ("", found) => found,
            _ => return Err(field.refuse("one input", "`input` and `context`".to_owned())),
        };
    }
    Ok(Some(alpaca_prompt(instruction.text()?, input)))
}

/// Requires at least one message of the assistant.
fn answered(conversation: Conversation, row: &Field) -> Result<Body, DataError> {
    if conversation.answers().next().is_some() {
        return Ok(Body::Chat(conversation));
    }
    let found = match conversation.messages.len() {
        0 => "no messages".to_owned(),
        number => format!("{number} messages, none of them the assistant's"),
    };
    Err(row.refuse("at least one message of the assistant", found))
}

/// The text of a response, which must not be blank.
fn spoken(field: &Field) -> Result<String, DataError> {
    let text = field.text()?;
    if text.trim().is_empty() {
        return Err(field.refuse("a response", "a blank string".to_owned()));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{Message, Role};

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
            Message::new(Role::User, "c"),
            Message::new(Role::Assistant, "d"),
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
    fn layouts_of_other_tools_are_known() {
        let rows = read(
            r#"[{"prompt": "a", "completion": "b"},
                {"instruction": "a", "input": "i", "output": "b"},
                {"instruction": "a", "input": "", "context": "i", "response": "b"},
                {"conversations": [{"from": "human", "value": "c"}, {"from": "gpt", "value": "d"}]},
                {"prompt": "c", "messages": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}]"#,
        )
        .unwrap();
        assert_eq!(rows[0], Record::completion(1, "a", "b"));
        let prompt = alpaca_prompt("a", "i");
        assert_eq!(rows[1], Record::completion(2, prompt.clone(), "b"));
        assert_eq!(rows[2], Record::completion(3, prompt, "b"));
        assert_eq!(rows[3].body, rows[4].body);
        assert!(matches!(&rows[3].body, Body::Chat(talk) if talk.messages.len() == 2));
    }

    #[test]
    fn one_object_over_several_lines_is_told_from_malformed_lines() {
        let error = refusal("{\n\"Data\": []\n}");
        assert!(
            error.contains("expected JSON Lines, one object a line, or one array"),
            "{error}"
        );
        assert!(error.contains("found an object with Data"), "{error}");
    }

    #[test]
    fn other_encodings_are_named_with_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        fs::write(&path, b"{\"prompt\": \"a\"}\n{\"prompt\": \"caf\xE9\"}").unwrap();
        let error = read_jsonl(&path).unwrap_err().to_string();
        assert!(
            error.contains("rows.jsonl:2: expected UTF-8, found the byte 0xE9"),
            "{error}"
        );
        fs::write(&path, b"\xFF\xFE{\0").unwrap();
        let error = read_jsonl(&path).unwrap_err().to_string();
        assert!(error.contains("found UTF-16"), "{error}");
        let error = read_jsonl(folder.path()).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
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
        let message = refusal("{\"messages\": [{\"role\": \"bot\", \"content\": \"a\"}]}");
        assert!(message.contains("`messages[0].role`"), "{message}");
        assert!(
            message.contains("expected system, user, assistant or tool, found `bot`"),
            "{message}"
        );
        let both = format!("{{\"messages\": [{user}], \"response\": \"a\"}}");
        assert!(refusal(&both).contains("found a conversation and `response`"));
        let two = "{\"prompt\": \"a\", \"response\": \"b\", \"completion\": \"c\"}";
        assert!(refusal(two).contains("found `response` and `completion`"));
        let two = r#"{"prompt": "a", "instruction": "b", "response": "c"}"#;
        assert!(refusal(two).contains("found `prompt` and `instruction`"));
        let two = r#"{"instruction": "a", "input": "b", "context": "c", "response": "d"}"#;
        assert!(refusal(two).contains("found `input` and `context`"));
        assert!(refusal("{\"text\": \" \"}").contains("found a blank string"));
        assert!(matches!(read(" \n"), Err(DataError::NoRows { .. })));
    }
}
