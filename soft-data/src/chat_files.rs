//! Files that a model trained on conversations needs to be prompted as in training.

use std::path::Path;

use crate::special::Files;
use crate::{DataError, EncodeReport, Tokenizer};

/// Name and text of a file in a model folder.
pub type NamedText = (&'static str, String);

/// The files to save with a model trained on the conversations of `report`, beside those of its
/// base `folder`: the default chat template, if the folder has none, and a generation_config.json
/// with the tokens that end turns, if they were not stop tokens. Empty if there were no
/// conversations.
///
/// # Errors
/// When a file of the folder cannot be read.
pub fn chat_files(
    folder: impl AsRef<Path>,
    tokenizer: &Tokenizer,
    report: &EncodeReport,
) -> Result<Vec<NamedText>, DataError> {
    let mut files = Vec::new();
    if report.conversations == 0 {
        return Ok(files);
    }
    let template = tokenizer.chat_template();
    if template.is_default() {
        files.push(("chat_template.jinja", template.source().to_owned()));
    }
    let stop = tokenizer.stop_tokens();
    let new = report.turn_ends.iter().filter(|end| !stop.contains(end));
    let all: Vec<u32> = stop.iter().chain(new).copied().collect();
    if all.len() > stop.len() {
        let generation = Files::read(folder.as_ref())?.generation_with(&all);
        files.push(("generation_config.json", format!("{generation:#}\n")));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{Conversation, Message, Record, Role, encode};

    #[test]
    fn what_training_took_for_granted_is_saved() {
        let folder = tempfile::tempdir().unwrap();
        for file in ["tokenizer.json", "config.json"] {
            let original = format!(
                "{}/tests/tokenizers/bytes/{file}",
                env!("CARGO_MANIFEST_DIR")
            );
            fs::copy(original, folder.path().join(file)).unwrap();
        }
        // A base model, whose texts and turns end in different tokens.
        let config = r#"{"eos_token": "<|endoftext|>", "add_bos_token": false}"#;
        fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
        let generation = r#"{"temperature": 0.5, "eos_token_id": 0}"#;
        fs::write(folder.path().join("generation_config.json"), generation).unwrap();
        let tokenizer = Tokenizer::from_folder(&folder, 400).unwrap();
        let talk: Conversation = vec![
            Message::new(Role::User, "a"),
            Message::new(Role::Assistant, "b"),
        ]
        .into();
        let (_, report) = encode(&[Record::chat(1, talk.clone())], &tokenizer, 99).unwrap();
        let files = chat_files(&folder, &tokenizer, &report).unwrap();
        assert_eq!(files.len(), 2);
        for (name, text) in &files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let trained = Tokenizer::from_folder(&folder, 400).unwrap();
        assert_eq!(trained.stop_tokens(), [0, 2]);
        assert!(!trained.chat_template().is_default());
        assert_eq!(
            trained.encode_chat(&talk).unwrap(),
            tokenizer.encode_chat(&talk).unwrap()
        );
        assert!(
            fs::read_to_string(folder.path().join("generation_config.json"))
                .unwrap()
                .contains("0.5")
        );
        // Training the result again adds no files.
        let (_, report) = encode(&[Record::chat(1, talk)], &trained, 99).unwrap();
        assert!(chat_files(&folder, &trained, &report).unwrap().is_empty());
        let (_, plain) = encode(&[Record::completion(1, "a", "b")], &tokenizer, 99).unwrap();
        assert!(chat_files(&folder, &tokenizer, &plain).unwrap().is_empty());
    }
}
