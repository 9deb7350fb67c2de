//! Conversations to text, as a model folder's chat template says.
//!
//! Knows where a folder keeps its template and what the template is given; knows no tokens.
//! Training keeps to ChatML, see [`encode`](crate::encode).
//!
//! Source: `apply_chat_template` of transformers, which the golden test in `tests/chat` holds it
//! to.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use minijinja::value::Value as Jinja;
use minijinja::{Environment, Error, context};
use serde_json::Value;

use crate::rows::{describe, read_json, read_text};
use crate::{DataError, Message};

mod date;
mod dialect;

const FILE: &str = "chat_template.jinja";
const CONFIG: &str = "tokenizer_config.json";
const KEY: &str = "chat_template";

/// Special tokens that templates may write, as they are called in [`CONFIG`].
const SPECIAL: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// The chat template of a model folder.
///
/// Templates are Jinja as transformers runs it: blocks take their line breaks with them, and
/// `raise_exception`, `strftime_now`, `tojson`, `namespace`, `break`, `continue`, `generation`
/// and the methods of Python's strings, lists and dictionaries are there. Templates see
/// `messages`, `add_generation_prompt`, the special tokens of tokenizer_config.json, and `tools`
/// and `documents` as none. A template cannot reach files.
///
/// Differs from transformers: `strftime_now` tells the time in UTC, not local time; texts in
/// lists that are printed without `tojson` stand in double quotes.
///
/// ```
/// use soft_data::{ChatTemplate, Message, Role, Tokenizer};
///
/// # let folder = tempfile::tempdir()?;
/// # for file in ["tokenizer.json", "tokenizer_config.json", "config.json"] {
/// #     std::fs::copy(format!("tests/tokenizers/bytes/{file}"), folder.path().join(file))?;
/// # }
/// # std::fs::write(folder.path().join("chat_template.jinja"), "\
/// # {%- for message in messages %}\n\
/// # {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}\n\
/// # {%- endfor %}\n\
/// # {%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")?;
/// let template = ChatTemplate::from_folder(&folder)?;
/// let question = Message { role: Role::User, content: "Where?".to_owned() };
/// let prompt = template.render_prompt(&[question])?;
/// assert_eq!(prompt, "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n");
///
/// let tokenizer = Tokenizer::from_folder(&folder, 270)?;
/// let tokens = tokenizer.encode_chat(&prompt)?;
/// assert_eq!(tokens[0], tokenizer.token_id("<|im_start|>").unwrap());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    /// Holds the template under the name [`FILE`].
    environment: Environment<'static>,
    /// The file that the template stands in.
    path: PathBuf,
    special: BTreeMap<&'static str, String>,
}

/// What comes behind the messages.
#[derive(Clone, Copy)]
enum Ending {
    Messages,
    Prompt,
}

impl ChatTemplate {
    /// Reads the template of a model `folder`: `chat_template.jinja`, else `chat_template` in
    /// tokenizer_config.json, where of several templates `default` is taken.
    ///
    /// # Errors
    /// When a file cannot be read, there is no template, or it is not one.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Self, DataError> {
        let folder = folder.as_ref();
        let config_path = folder.join(CONFIG);
        let config = if_there(read_json(&config_path))?.unwrap_or_default();
        let path = folder.join(FILE);
        let (path, source) = match if_there(read_text(&path))? {
            Some(source) => (path, source),
            None => match of_config(&config, &config_path)? {
                Some(source) => (config_path, source),
                None => {
                    return Err(DataError::NoChatTemplate {
                        folder: folder.to_owned(),
                    });
                }
            },
        };
        let special = SPECIAL
            .into_iter()
            .filter_map(|key| Some((key, text_of(config.get(key)?)?.to_owned())))
            .collect();
        Self::new(path, &source, special)
    }

    fn new(
        path: PathBuf,
        source: &str,
        special: BTreeMap<&'static str, String>,
    ) -> Result<Self, DataError> {
        let mut environment = dialect::environment();
        let source = dialect::without_generation_tags(source);
        environment
            .add_template_owned(FILE, source)
            .map_err(|error| DataError::ChatTemplate {
                path: path.clone(),
                line: error.line().unwrap_or(1),
                cause: cause(&error),
            })?;
        Ok(Self {
            environment,
            path,
            special,
        })
    }

    /// The text of a conversation that is over.
    ///
    /// # Errors
    /// When there are no messages, or the template refuses them or fails.
    pub fn render(&self, messages: &[Message]) -> Result<String, DataError> {
        self.text(messages, Ending::Messages)
    }

    /// The text that prompts the model for its next turn.
    ///
    /// # Errors
    /// When there are no messages, or the template refuses them or fails.
    pub fn render_prompt(&self, messages: &[Message]) -> Result<String, DataError> {
        self.text(messages, Ending::Prompt)
    }

    fn text(&self, messages: &[Message], ending: Ending) -> Result<String, DataError> {
        if messages.is_empty() {
            return Err(DataError::NoMessages);
        }
        let turn = |message: &Message| {
            // In the order in which files write them, which `tojson` shows.
            let entries = [("role", message.role.name()), ("content", &message.content)];
            Jinja::from_iter(entries.map(|(key, text)| (key, Jinja::from(text))))
        };
        let given = context! {
            messages => messages.iter().map(turn).collect::<Vec<_>>(),
            add_generation_prompt => matches!(ending, Ending::Prompt),
            tools => (),
            documents => (),
            ..Jinja::from_serialize(&self.special)
        };
        let template = self.environment.get_template(FILE);
        let text = template.and_then(|template| template.render(given));
        text.map_err(|error| DataError::ChatRender {
            path: self.path.clone(),
            line: error.line().unwrap_or(1),
            cause: cause(&error),
        })
    }
}

/// `None` for a file that does not exist.
fn if_there<T>(read: Result<T, DataError>) -> Result<Option<T>, DataError> {
    match read {
        Err(DataError::Read { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// The template in tokenizer_config.json: a string, or a list of templates with names.
fn of_config(config: &Value, path: &Path) -> Result<Option<String>, DataError> {
    let template = match config.get(KEY) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(named)) => named
            .iter()
            .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))
            .and_then(|entry| entry.get("template")?.as_str()),
        Some(template) => template.as_str(),
    };
    let refusal = || DataError::Layout {
        path: path.to_owned(),
        expected: "a string as `chat_template`, or a list with a template named `default`",
        found: describe(&config[KEY]),
    };
    Ok(Some(template.ok_or_else(refusal)?.to_owned()))
}

/// A special token, given by its text or by an object with the text as `content`.
fn text_of(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// What the template engine says, without the place, which is told apart.
fn cause(error: &Error) -> String {
    match error.detail() {
        Some(detail) => detail.to_owned(),
        None => error.kind().to_string(),
    }
}

#[cfg(test)]
mod tests;
