//! Files of prompts without responses.

use std::path::Path;

use crate::rows::{Field, read_rows};
use crate::{Conversation, DataError, Tokenizer, alpaca_prompt};

/// A prompt for a model.
#[derive(Clone, Debug, PartialEq)]
pub enum PromptBody {
    /// Plain text.
    Text(String),
    /// A conversation in which the model has the next turn.
    Chat(Conversation),
}

impl PromptBody {
    /// Encodes the prompt.
    ///
    /// # Errors
    /// As for [`Tokenizer::encode_start`] and [`Tokenizer::encode_chat`].
    pub fn encode(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>, DataError> {
        match self {
            Self::Text(text) => tokenizer.encode_start(text),
            Self::Chat(conversation) => tokenizer.encode_chat(conversation),
        }
    }
}

const LAYOUTS: &str = "exactly one of `prompt`, `messages` (or `conversations`) and `instruction`";

/// Reads prompts from JSON Lines or a JSON array: `{"prompt": ..}`, `{"messages": [..]}` as in
/// [`read_jsonl`](crate::read_jsonl), or `{"instruction": .., "input": ..}`, which becomes Alpaca's
/// [prompt](crate::alpaca_prompt). Other keys are ignored.
///
/// # Errors
/// When the file cannot be read, has no rows, is not JSON, or a row has none of these layouts,
/// several of them, or no text.
pub fn read_prompts(path: impl AsRef<Path>) -> Result<Vec<PromptBody>, DataError> {
    let path = path.as_ref();
    let rows = read_rows(path)?;
    let prompts = rows
        .iter()
        .map(|(number, value)| body(&Field::of_row(path, *number, value)));
    prompts.collect()
}

fn body(row: &Field) -> Result<PromptBody, DataError> {
    let conversation = Conversation::of_row(row)?;
    let (prompt, instruction) = (row.get("prompt")?, row.get("instruction")?);
    match (prompt, conversation, instruction) {
        (Some(prompt), None, None) => match prompt.text()? {
            "" => Err(prompt.refuse("some text", "an empty string".to_owned())),
            text => Ok(PromptBody::Text(text.to_owned())),
        },
        (None, Some(conversation), None) => {
            if conversation.messages.is_empty() {
                Err(row.refuse("at least one message", "no messages".to_owned()))
            } else {
                Ok(PromptBody::Chat(conversation))
            }
        }
        (None, None, Some(instruction)) => {
            let input = row.get("input")?.map_or(Ok(""), |input| input.text())?;
            Ok(PromptBody::Text(alpaca_prompt(instruction.text()?, input)))
        }
        (None, None, None) => Err(row.missing("prompt", LAYOUTS)),
        _ => Err(row.refuse(LAYOUTS, "several of them".to_owned())),
    }
}

/// An instruction with its input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// The task.
    pub instruction: String,
    /// The input of the task; may be empty.
    pub input: String,
}

/// Reads instructions from JSON Lines or a JSON array: `{"instruction": .., "input": ..}`. `input`
/// is optional; other keys are ignored.
///
/// # Errors
/// When the file cannot be read, has no rows, is not JSON, or a row has no instruction.
pub fn read_instructions(path: impl AsRef<Path>) -> Result<Vec<Instruction>, DataError> {
    let path = path.as_ref();
    let rows = read_rows(path)?;
    let instructions = rows.iter().map(|(number, value)| {
        let row = Field::of_row(path, *number, value);
        let instruction = row.require("instruction", "the instruction")?.text()?;
        let input = row.get("input")?.map_or(Ok(""), |input| input.text())?;
        Ok(Instruction {
            instruction: instruction.to_owned(),
            input: input.to_owned(),
        })
    });
    instructions.collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(text: &str) -> Result<Vec<PromptBody>, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts.json");
        fs::write(&path, text).unwrap();
        read_prompts(&path)
    }

    #[test]
    fn every_layout_is_read() {
        let talk = Conversation::question("b");
        let wanted = [
            PromptBody::Text("a".into()),
            PromptBody::Chat(talk),
            PromptBody::Text(alpaca_prompt("c", "d")),
        ];
        let lines = [
            r#"{"prompt": "a", "id": 1}"#,
            r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "b"}]}]}"#,
            r#"{"instruction": "c", "input": "d", "output": "e"}"#,
        ];
        assert_eq!(read(&lines.join("\n")).unwrap(), wanted);
        assert_eq!(read(&format!("[{}]", lines.join(","))).unwrap(), wanted);
    }

    #[test]
    fn instructions_are_read_from_files_of_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("asked.json");
        fs::write(&path, r#"[{"instruction": "a", "id": 1}, {"input": "b"}]"#).unwrap();
        let error = read_instructions(&path).unwrap_err().to_string();
        assert!(error.contains("row 2, `instruction`"), "{error}");
        fs::write(&path, r#"[{"instruction": "a", "id": 1}]"#).unwrap();
        let read = read_instructions(&path).unwrap();
        assert_eq!(
            (read[0].instruction.as_str(), read[0].input.as_str()),
            ("a", "")
        );
    }

    #[test]
    fn refusals_name_the_row() {
        let refusal = |text: &str| read(text).unwrap_err().to_string();
        assert!(refusal(r#"{"prompt": ""}"#).contains("row 1, `prompt`: expected some text"));
        let two = "{\"prompt\": \"a\"}\n{\"prompt\": \"a\", \"instruction\": \"b\"}";
        assert!(refusal(two).contains("row 2: expected exactly one"));
        assert!(refusal("{\"x\": 1}").contains("row 1, `prompt`: expected exactly one"));
        assert!(refusal("{\"messages\": []}").contains("found no messages"));
    }
}
