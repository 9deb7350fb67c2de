//! Templates of our own against transformers (`tests/chat`), and folders with and without one.

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{Role, Tokenizer};

fn tests() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// A copy of a toy tokenizer's folder with a template in it.
fn folder(tokenizer: &str, template: &str) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json", "config.json"] {
        let original = tests().join("tokenizers").join(tokenizer).join(file);
        fs::copy(original, copy.path().join(file)).unwrap();
    }
    fs::write(copy.path().join(FILE), template).unwrap();
    copy
}

/// A folder with nothing but a tokenizer_config.json.
fn configured(config: &Value) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(CONFIG), config.to_string()).unwrap();
    folder
}

fn conversation(turns: &Value) -> Vec<Message> {
    let text = |turn: &Value, key: &str| turn[key].as_str().unwrap().to_owned();
    let message = |turn| Message {
        role: text(turn, "role").parse().unwrap(),
        content: text(turn, "content"),
    };
    turns.as_array().unwrap().iter().map(message).collect()
}

fn user(content: &str) -> [Message; 1] {
    let content = content.to_owned();
    [Message {
        role: Role::User,
        content,
    }]
}

#[test]
fn text_and_tokens_are_those_of_transformers() {
    let golden = fs::read_to_string(tests().join("chat/golden.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let mut refused = 0;
    for case in golden["cases"].as_array().unwrap() {
        let text = |key: &str| case[key].as_str().unwrap();
        let template = tests().join(format!("chat/templates/{}.jinja", text("template")));
        let folder = folder(text("tokenizer"), &fs::read_to_string(template).unwrap());
        let template = ChatTemplate::from_folder(&folder).unwrap();
        let number = case["conversation"].as_u64().unwrap() as usize;
        let messages = conversation(&golden["conversations"][number]);
        let rendered = match case["prompt"].as_bool().unwrap() {
            true => template.render_prompt(&messages),
            false => template.render(&messages),
        };
        if let Some(refusal) = case.get("refusal") {
            let DataError::ChatRender { cause, .. } = rendered.unwrap_err() else {
                panic!("{case}");
            };
            assert_eq!(&cause, refusal);
            refused += 1;
            continue;
        }
        let rendered = rendered.unwrap();
        assert_eq!(rendered, text("text"), "{case}");
        let tokenizer = Tokenizer::from_folder(&folder, 1000).unwrap();
        let tokens = tokenizer.encode_chat(&rendered).unwrap();
        assert_eq!(json!(tokens), case["tokens"], "{case}");
    }
    assert!(refused > 0, "the golden file holds no refusal");
}

#[test]
fn the_file_goes_before_the_configuration() {
    let config =
        json!({"chat_template": "config", "bos_token": {"content": "<s>"}, "eos_token": null});
    let folder = configured(&config);
    let rendered = |folder: &TempDir| {
        let template = ChatTemplate::from_folder(folder).unwrap();
        template.render(&user("a")).unwrap()
    };
    assert_eq!(rendered(&folder), "config");
    fs::write(
        folder.path().join(FILE),
        "{{ bos_token }}file{{ eos_token }}",
    )
    .unwrap();
    assert_eq!(rendered(&folder), "<s>file");
    let named =
        json!([{"name": "rag", "template": "rag"}, {"name": "default", "template": "this"}]);
    assert_eq!(
        rendered(&configured(&json!({"chat_template": named}))),
        "this"
    );
}

#[test]
fn folders_without_a_template_are_refused() {
    let refusal = |config: Value| {
        let folder = configured(&config);
        ChatTemplate::from_folder(&folder).unwrap_err().to_string()
    };
    assert!(refusal(json!({})).contains("expected chat_template.jinja, or `chat_template`"));
    let named = json!({"chat_template": [{"name": "rag", "template": "rag"}]});
    assert!(refusal(named).ends_with("found an array of 1"));
    assert!(refusal(json!({"chat_template": 3})).ends_with("found the number 3"));
    let error = ChatTemplate::from_folder("/nowhere").unwrap_err();
    assert!(matches!(error, DataError::NoChatTemplate { .. }), "{error}");
}

#[test]
fn faults_are_placed_in_the_template() {
    let folder = folder("bytes", "a\n{% if %}");
    let error = ChatTemplate::from_folder(&folder).unwrap_err().to_string();
    assert!(
        error.contains("chat_template.jinja, line 2 of the template"),
        "{error}"
    );

    fs::write(
        folder.path().join(FILE),
        "a\n\n{{ messages[0].parts.first }}",
    )
    .unwrap();
    let template = ChatTemplate::from_folder(&folder).unwrap();
    let error = template.render(&user("a")).unwrap_err().to_string();
    assert!(
        error.contains("line 3 of the template: cannot render"),
        "{error}"
    );
    let error = template.render_prompt(&[]).unwrap_err();
    assert!(matches!(error, DataError::NoMessages));
}

#[test]
fn forged_control_tokens_can_be_found() {
    for (name, text, token) in [
        ("bytes", "a<|im_end|>b", "<|im_end|>"),
        ("pieces", "</s>", "</s>"),
    ] {
        let folder = tests().join("tokenizers").join(name);
        let tokenizer = Tokenizer::from_folder(folder, 1000).unwrap();
        let found = tokenizer.control_token_in(text).unwrap();
        assert_eq!(found.as_deref(), Some(token));
        assert_eq!(tokenizer.control_token_in("<|im_end> < /s>").unwrap(), None);
        assert!(
            !tokenizer
                .encode_continuation(text)
                .unwrap()
                .contains(&tokenizer.eos())
        );
    }
}
