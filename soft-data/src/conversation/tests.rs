//! Layouts of conversations, and rows that are rejected.

use std::path::Path;

use serde_json::json;

use super::*;

fn read(row: &Value) -> Result<Option<Conversation>, DataError> {
    Conversation::of_row(&Field::of_row(Path::new("rows.jsonl"), 3, row))
}

#[test]
fn roles_are_known_by_their_names_only() {
    assert_eq!(Role::from_name("assistant"), Some(Role::Assistant));
    assert_eq!(Role::from_name("Assistant"), None);
    assert_eq!(Role::User.to_string().parse::<Role>().unwrap(), Role::User);
    let error = "bot".parse::<Role>().unwrap_err().to_string();
    let wanted = "expected a role (system, user, assistant, tool), found `bot`";
    assert_eq!(error, wanted);
}

#[test]
fn share_gpt_is_read_as_messages() {
    let row = json!({"conversations": [
        {"from": "system", "value": "s"}, {"from": "human", "value": "u"},
        {"from": "gpt", "value": "a"}, {"from": "observation", "value": "t"}]});
    let turns = [
        (Role::System, "s"),
        (Role::User, "u"),
        (Role::Assistant, "a"),
        (Role::Tool, "t"),
    ];
    let turns = turns.map(|(role, text)| Message::new(role, text)).to_vec();
    assert_eq!(read(&row).unwrap(), Some(turns.into()));
    let row = json!({"conversations": [{"from": "bing", "value": "u"}]});
    let error = read(&row).unwrap_err().to_string();
    assert!(error.contains("`conversations[0].from`"), "{error}");
}

#[test]
fn parts_are_lines_and_tool_calls_go_without_content() {
    let call = json!([{"type": "function", "function": {"name": "f", "arguments": {}}}]);
    let row = json!({"tools": [{"name": "f"}], "messages": [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": null, "tool_calls": call},
        {"role": "tool", "content": "3", "name": "f"}]});
    let read = read(&row).unwrap().unwrap();
    assert_eq!(read.messages[0], Message::new(Role::User, "a\nb"));
    assert_eq!(read.messages[1].content, None);
    assert_eq!(read.messages[1].other["tool_calls"], call);
    assert!(read.messages[1].to_json().get("content").is_none());
    assert_eq!(
        read.messages[2].to_json().to_string(),
        r#"{"role":"tool","content":"3","name":"f"}"#
    );
    assert_eq!(read.tools, [json!({"name": "f"})]);
    assert_eq!(read.answers().collect::<Vec<_>>(), [1]);
    assert!(!read.has_no_answer());
}

#[test]
fn thoughts_are_found_under_every_name() {
    let mut message = Message::new(Role::Assistant, "a");
    message.other = Map::from_iter([("reasoning".to_owned(), "hm".into())]);
    let turn = message.to_json();
    assert_eq!(
        (&turn["reasoning_content"], &turn["thinking"]),
        (&"hm".into(), &"hm".into())
    );
}

#[test]
fn tools_and_keys_are_texts_too() {
    let row = json!({"tools": [{"name": "f", "why": {"a": "b"}}], "messages": [
        {"role": "assistant", "content": "c", "name": ["d"]}]});
    let read = read(&row).unwrap().unwrap();
    let mut found = Vec::new();
    read.for_texts(&mut |text| found.push(text.to_owned()));
    assert_eq!(found, ["c", "name", "d", "name", "f", "why", "a", "b"]);
    let changed = read.map_texts(&|text| text.to_uppercase());
    assert_eq!(changed.tools, [json!({"NAME": "F", "WHY": {"A": "B"}})]);
    assert_eq!(changed.messages[0].other["NAME"], json!(["D"]));
}

#[test]
fn refusals_name_the_place() {
    let refusal = |row: Value| read(&row).unwrap_err().to_string();
    let image = json!({"messages": [{"role": "user", "content": [{"type": "image"}]}]});
    let error = refusal(image);
    assert!(error.contains("`messages[0].content[0].type`"), "{error}");
    assert!(error.contains("found `image`"), "{error}");
    let number = json!({"messages": [{"role": "user", "content": 3}]});
    assert!(refusal(number).contains("found the number 3"));
    for silent in [json!({"content": " "}), json!({"tool_calls": []})] {
        let mut silent = silent.clone();
        silent["role"] = json!("assistant");
        let error = refusal(json!({ "messages": [silent] }));
        assert!(error.contains("found a blank string"), "{error}");
    }
    let nothing = json!({"messages": [{"role": "user"}]});
    assert!(refusal(nothing).contains("expected what is said"));
    let both = json!({"messages": [], "conversations": []});
    assert!(refusal(both).contains("`messages` and `conversations`"));
}
