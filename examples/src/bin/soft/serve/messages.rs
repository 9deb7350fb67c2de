//! Messages of a chat in OpenAI's form.

use serde::Deserialize;
use serde_json::Value;
use soft_data::Message;

use super::refusal::Refusal;

#[derive(Deserialize, Debug)]
pub struct WireMessage {
    role: String,
    content: Content,
    /// Fields of earlier answers come back in messages, mostly empty.
    #[serde(flatten)]
    other: serde_json::Map<String, Value>,
}

#[derive(Deserialize, Debug)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize, Debug)]
struct Part {
    r#type: String,
    text: String,
}

impl WireMessage {
    pub fn message(self) -> Result<Message, Refusal> {
        let unused = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        let mut others = self.other.iter().filter(|(name, _)| *name != "name");
        if let Some((name, _)) = others.find(|(_, value)| !unused(value)) {
            let message = format!("{name} in a message is not supported");
            return Err(Refusal::invalid("messages", message));
        }
        let role = self.role.as_str();
        // OpenAI's newer name of the system's role.
        let role = if role == "developer" { "system" } else { role };
        let role = role
            .parse()
            .map_err(|error| Refusal::invalid("messages", format!("{error}")))?;
        let text = match self.content {
            Content::Text(text) => text,
            Content::Parts(parts) => {
                if let Some(part) = parts.iter().find(|part| part.r#type != "text") {
                    let message = format!("a part of type {:?}: expected text", part.r#type);
                    return Err(Refusal::invalid("messages", message));
                }
                parts.into_iter().map(|part| part.text).collect()
            }
        };
        Ok(Message::new(role, text))
    }
}
