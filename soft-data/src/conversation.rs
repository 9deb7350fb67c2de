//! Conversations: messages with roles, in OpenAI's `messages` or ShareGPT's `conversations` layout.
//!
//! A [`ChatTemplate`](crate::ChatTemplate) renders a conversation as text.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::DataError;
use crate::rows::{Field, describe};

/// A conversation and the tools available in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// The messages, in order.
    pub messages: Vec<Message>,
    /// JSON schemas of the tools. If empty, `tools` is `None` in templates.
    pub tools: Vec<Value>,
}

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Role of the author.
    pub role: Role,
    /// Text of the message; may be absent if there are tool calls.
    pub content: Option<String>,
    /// Other keys that templates may read, such as `tool_calls` and `name`.
    pub other: Map<String, Value>,
}

/// Role of a message's author.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// The user.
    User,
    /// The model; its turns are supervised.
    Assistant,
    /// Output of a tool.
    Tool,
}

impl Role {
    const ALL: [Self; 4] = [Self::System, Self::User, Self::Assistant, Self::Tool];

    /// Name of the role in files and templates.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// Role names of ShareGPT and of formats derived from it.
    fn from_share_gpt(name: &str) -> Option<Self> {
        match name {
            "human" => Some(Self::User),
            "gpt" | "chatgpt" | "model" => Some(Self::Assistant),
            "observation" => Some(Self::Tool),
            name => Self::from_name(name),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        Self::from_name(name).ok_or_else(|| DataError::UnknownRole {
            found: name.to_owned(),
        })
    }
}

impl Message {
    /// A message of plain text.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: Some(content.into()),
            other: Map::new(),
        }
    }

    /// The message as passed to templates, with role and content first, an order visible through
    /// `tojson`. As in transformers, keys without a value are omitted. Reasoning is available as
    /// both `thinking` and `reasoning_content`.
    pub(crate) fn to_json(&self) -> Value {
        let mut turn = Map::from_iter([("role".to_owned(), self.role.name().into())]);
        turn.extend(
            self.content
                .iter()
                .map(|it| ("content".to_owned(), it.as_str().into())),
        );
        let others = self.other.iter().filter(|(_, value)| !value.is_null());
        turn.extend(others.map(|(key, value)| (key.clone(), value.clone())));
        let names = ["reasoning_content", "thinking", "reasoning"];
        if let Some(thought) = names.iter().find_map(|name| turn.get(*name).cloned()) {
            turn.entry("thinking").or_insert_with(|| thought.clone());
            turn.insert("reasoning_content".to_owned(), thought);
        }
        Value::Object(turn)
    }

    /// Whether this is an assistant's message with text or tool calls.
    fn is_answer(&self) -> bool {
        let calls = self.other.get("tool_calls").and_then(Value::as_array);
        let calls = calls.is_some_and(|calls| !calls.is_empty());
        let content = self.content.as_ref();
        self.role == Role::Assistant
            && (calls || content.is_some_and(|text| !text.trim().is_empty()))
    }
}

impl From<Vec<Message>> for Conversation {
    fn from(messages: Vec<Message>) -> Self {
        Self {
            messages,
            tools: Vec::new(),
        }
    }
}

impl Conversation {
    /// A conversation of a single user message.
    pub fn question(content: impl Into<String>) -> Self {
        vec![Message::new(Role::User, content)].into()
    }

    pub(crate) fn has_no_answer(&self) -> bool {
        !self.messages.iter().any(Message::is_answer)
    }

    pub(crate) fn first(&self, count: usize) -> Self {
        Self {
            messages: self.messages[..count].to_vec(),
            tools: self.tools.clone(),
        }
    }

    pub(crate) fn answers(&self) -> impl DoubleEndedIterator<Item = usize> {
        let turns = self.messages.iter().enumerate();
        turns.filter_map(|(index, turn)| (turn.role == Role::Assistant).then_some(index))
    }

    /// Applies `change` to every text: contents, tools, and keys and strings in `other`.
    pub(crate) fn map_texts(mut self, change: &impl Fn(&str) -> String) -> Self {
        for message in &mut self.messages {
            if let Some(content) = &mut message.content {
                *content = change(content);
            }
            message.other = mapped_entries(&message.other, change);
        }
        self.tools = self.tools.iter().map(|tool| mapped(tool, change)).collect();
        self
    }

    /// Calls `look` with every text that [`map_texts`](Self::map_texts) changes.
    pub(crate) fn for_texts(&self, look: &mut impl FnMut(&str)) {
        for message in &self.messages {
            message.content.iter().for_each(|content| look(content));
            for_texts_of_entries(&message.other, look);
        }
        self.tools.iter().for_each(|tool| for_texts_of(tool, look));
    }

    /// Reads the conversation of a row; `None` without `messages` and `conversations`.
    pub(crate) fn of_row(row: &Field) -> Result<Option<Self>, DataError> {
        let messages = match (row.get("messages")?, row.get("conversations")?) {
            (None, None) => return Ok(None),
            (Some(messages), None) => messages,
            (None, Some(conversations)) => conversations,
            (Some(_), Some(both)) => {
                let found = "`messages` and `conversations`".to_owned();
                return Err(both.refuse("one conversation", found));
            }
        };
        let turns = messages.items()?;
        let turns = turns.iter().map(Message::of_field);
        let tools = match row.get("tools")? {
            Some(tools) => tools.items()?.iter().map(|it| it.value().clone()).collect(),
            None => Vec::new(),
        };
        let messages = turns.collect::<Result<_, _>>()?;
        Ok(Some(Self { messages, tools }))
    }
}

impl Message {
    fn of_field(turn: &Field) -> Result<Self, DataError> {
        if turn.get("role")?.is_none() && turn.get("from")?.is_some() {
            return Self::of_share_gpt(turn);
        }
        let name = turn.require("role", "the speaker's role")?;
        let role = role(&name, Role::from_name)?;
        let mut other = turn.entries()?.clone();
        other.shift_remove("role");
        other.shift_remove("content");
        other.retain(|_, value| !value.is_null());
        let content = match turn.get("content")? {
            None if other.contains_key("tool_calls") => None,
            None => return Err(turn.missing("content", "what is said")),
            Some(content) => Some(text_of(&content)?),
        };
        let message = Self {
            role,
            content,
            other,
        };
        message.check(turn)
    }

    fn of_share_gpt(turn: &Field) -> Result<Self, DataError> {
        let role = role(&turn.require("from", "the speaker")?, Role::from_share_gpt)?;
        let content = turn.require("value", "what is said")?.text()?;
        Self::new(role, content).check(turn)
    }

    /// Rejects an empty message of the assistant.
    fn check(self, turn: &Field) -> Result<Self, DataError> {
        if self.role == Role::Assistant && !self.is_answer() {
            Err(turn.refuse("a response", "a blank string".to_owned()))
        } else {
            Ok(self)
        }
    }
}

fn role(name: &Field, known: impl Fn(&str) -> Option<Role>) -> Result<Role, DataError> {
    let text = name.text()?;
    known(text).ok_or_else(|| name.refuse("system, user, assistant or tool", format!("`{text}`")))
}

/// A content: a string, or an array of `{"type": "text", "text": ..}`, joined by line breaks.
fn text_of(content: &Field) -> Result<String, DataError> {
    if content.value().is_string() {
        return Ok(content.text()?.to_owned());
    }
    let part = |part: &Field| -> Result<String, DataError> {
        if part.value().is_string() {
            return Ok(part.text()?.to_owned());
        }
        let kind = part.require("type", "the kind of the part")?;
        match kind.text()? {
            "text" => Ok(part
                .require("text", "the text of the part")?
                .text()?
                .to_owned()),
            other => Err(kind.refuse(
                "`text`: the model reads no other kind",
                format!("`{other}`"),
            )),
        }
    };
    match content.value() {
        Value::Array(_) => {
            let parts = content.items()?;
            let texts = parts.iter().map(part).collect::<Result<Vec<_>, _>>()?;
            Ok(texts.join("\n"))
        }
        other => Err(content.refuse("a string or an array of parts", describe(other))),
    }
}

fn mapped(value: &Value, change: &impl Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) => change(text).into(),
        Value::Array(items) => items.iter().map(|item| mapped(item, change)).collect(),
        Value::Object(entries) => mapped_entries(entries, change).into(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

fn mapped_entries(
    entries: &Map<String, Value>,
    change: &impl Fn(&str) -> String,
) -> Map<String, Value> {
    let entries = entries.iter();
    entries
        .map(|(key, value)| (change(key), mapped(value, change)))
        .collect()
}

fn for_texts_of(value: &Value, look: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => look(text),
        Value::Array(items) => items.iter().for_each(|item| for_texts_of(item, look)),
        Value::Object(entries) => for_texts_of_entries(entries, look),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn for_texts_of_entries(entries: &Map<String, Value>, look: &mut impl FnMut(&str)) {
    for (key, value) in entries {
        look(key);
        for_texts_of(value, look);
    }
}

#[cfg(test)]
mod tests;
