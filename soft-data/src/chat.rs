//! Chat templates: render conversations as text, for training and inference alike.
//!
//! Source: `apply_chat_template` of transformers; `tests/chat` holds golden outputs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use minijinja::{Environment, Error, ErrorKind, context, value::Value as Jinja};
use serde_json::Value;

use crate::control::ControlTokens;
use crate::rows::{describe, if_there, read_text};
use crate::special::{Config, Files, NAMED};
use crate::{Conversation, DataError, Message};

mod date;
mod dialect;
mod limits;
mod python;
mod run;
mod source;
mod turns;

use run::Program;
use source::MARKS;
pub(crate) use turns::Turn;

const FILE: &str = "chat_template.jinja";
const KEY: &str = "chat_template";

/// A template for folders without one; `bos` is `None` if texts begin with no token. Tokens are
/// spelled out, so that the template does not depend on the configuration it is saved with.
fn default_template(bos: Option<&str>, is_chat_ml: bool, eos: &str) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let start = bos.map_or(String::new(), |bos| format!("{{{{- {} }}}}\n", quoted(bos)));
    // ChatML (OpenAI, 2023), or turns that end in the end-of-text token, like TinyLlama's.
    let [role, behind_role, end] = if is_chat_ml {
        ["<|im_start|>", "", "<|im_end|>"]
    } else {
        ["<|", "|>", eos]
    }
    .map(quoted);
    // There is no common format for tools.
    start
        + &format!(
            "\
{{%- for message in messages %}}
    {{%- if tools or message['tool_calls'] or message['content'] is not string %}}
        {{{{- raise_exception('the default chat template has no tools: the model folder needs a template that has') }}}}
    {{%- endif %}}
    {{{{- {role} + message['role'] + {behind_role} + '\\n' + message['content'] + {end} + '\\n' }}}}
{{%- endfor %}}
{{%- if add_generation_prompt %}}
    {{{{- {role} + 'assistant' + {behind_role} + '\\n' }}}}
{{%- endif %}}
"
        )
}

/// The chat template of a model folder.
///
/// Templates are Jinja with the settings and extensions of transformers: `trim_blocks` and
/// `lstrip_blocks`; `raise_exception`, `strftime_now`, `tojson`, `namespace`, `break`, `continue`,
/// `generation`, `%` on strings, tuples, and the methods of Python's strings, lists and
/// dictionaries. Variables are `messages`, `tools`, `add_generation_prompt`, the special tokens of
/// tokenizer_config.json and special_tokens_map.json, and `documents`, which is `None`. Templates
/// cannot access files, and their steps, time and memory are limited.
///
/// Differs from transformers: `strftime_now` returns UTC, not local time.
///
/// ```
/// use soft_data::{Conversation, Tokenizer};
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
/// let tokenizer = Tokenizer::from_folder(&folder, 270)?;
/// let question = Conversation::question("Where?");
/// let prompt = tokenizer.chat_template().render_prompt(&question)?;
/// assert_eq!(prompt, "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n");
///
/// let tokens = tokenizer.encode_chat(&question)?;
/// assert_eq!(tokens[0], tokenizer.token_id("<|im_start|>").unwrap());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    template: Arc<Template>,
    /// Used for conversations with tools, if the folder has such a template.
    tool_use: Option<Arc<Template>>,
}

#[derive(Debug)]
struct Template {
    /// The file of the template; `None` for a default.
    path: Option<PathBuf>,
    source: String,
    /// The source to compile, with rewritten syntax.
    prepared: String,
    environment: Environment<'static>,
    special: BTreeMap<&'static str, String>,
    /// Whether a rendering ran out of time; the template is not run again.
    is_endless: AtomicBool,
}

/// What follows the messages: nothing, or the prompt for the next turn.
#[derive(Clone, Copy)]
enum Ending {
    Messages,
    Prompt,
}

impl ChatTemplate {
    /// Reads the template of a model `folder`: `chat_template.jinja`, else `chat_template` in
    /// tokenizer_config.json. The template for conversations with tools comes from the same place,
    /// if present: `additional_chat_templates/tool_use.jinja` or the entry `tool_use`. A folder
    /// without a template gets ChatML if the tokenizer has its tokens, else turns that end in
    /// `eos`.
    ///
    /// Templates are compiled on use, so that a malformed one does not affect users without chats.
    pub(crate) fn of_folder(
        folder: &Path,
        files: &Files,
        controls: &ControlTokens,
        [bos, eos]: [Option<String>; 2],
    ) -> Result<Self, DataError> {
        let special: BTreeMap<_, _> = NAMED
            .into_iter()
            .filter_map(|key| Some((key, files.token_text(key)?.to_owned())))
            .collect();
        let template = |path: Option<PathBuf>, source: String| {
            let mut template = Template::of_source(&source);
            template.path = path;
            template.special = special.clone();
            Arc::new(template)
        };
        let path = folder.join(FILE);
        let in_file = if_there(read_text(&path))?.map(|source| (path, source));
        let Some((path, source)) = in_file.or(of_config(&files.tokenizer, "default")?) else {
            let is_chat_ml = ["<|im_start|>", "<|im_end|>"];
            let is_chat_ml = is_chat_ml.iter().all(|token| controls.contains(token));
            let eos = eos.unwrap_or_default();
            let source = default_template(bos.as_deref(), is_chat_ml, &eos);
            return Ok(Self {
                template: template(None, source),
                tool_use: None,
            });
        };
        let beside = folder.join("additional_chat_templates/tool_use.jinja");
        let in_file = if_there(read_text(&beside))?.map(|source| (beside, source));
        let tool_use = if path.ends_with(FILE) {
            in_file
        } else {
            of_config(&files.tokenizer, "tool_use")?
        };
        Ok(Self {
            template: template(Some(path), source),
            tool_use: tool_use.map(|(path, source)| template(Some(path), source)),
        })
    }

    /// Whether the folder has no template and a default is used.
    pub fn is_default(&self) -> bool {
        self.template.path.is_none()
    }

    /// The source of the template.
    pub fn source(&self) -> &str {
        &self.template.source
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// When a message contains a reserved noncharacter, or the template is malformed, rejects the
    /// conversation, fails or exceeds its limits.
    pub fn render(&self, conversation: &Conversation) -> Result<String, DataError> {
        self.text(conversation, Ending::Messages)
    }

    /// Renders the prompt for the model's next turn.
    ///
    /// # Errors
    /// As for [`render`](ChatTemplate::render).
    pub fn render_prompt(&self, conversation: &Conversation) -> Result<String, DataError> {
        self.text(conversation, Ending::Prompt)
    }

    fn text(&self, conversation: &Conversation, ending: Ending) -> Result<String, DataError> {
        let whole = conversation.clone();
        let render = move |program: &Program| program.render(&whole, ending);
        Ok(without_marks(&self.with_program(conversation, render)?))
    }

    /// Selects the template for a conversation.
    fn of(&self, conversation: &Conversation) -> &Arc<Template> {
        match &self.tool_use {
            Some(template) if !conversation.tools.is_empty() => template,
            _ => &self.template,
        }
    }

    /// Compiles the template and runs `work` on a separate thread, which has a large stack for
    /// nested templates and is abandoned when it runs out of time.
    fn with_program<T: Send + 'static>(
        &self,
        conversation: &Conversation,
        work: impl FnOnce(&Program) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, DataError> {
        let template = self.of(conversation);
        let theirs = Arc::clone(template);
        let done = if template.is_endless.load(Ordering::Relaxed) {
            Err(limits::out_of_time())
        } else {
            run::apart(move || work(&Program::new(&theirs)?))
        };
        done.map_err(|error| {
            if limits::is_out_of_time(&error) {
                template.is_endless.store(true, Ordering::Relaxed);
            }
            DataError::ChatTemplate {
                path: template.name(),
                line: error.line().unwrap_or(1),
                cause: cause(&error),
            }
        })
    }
}

impl Template {
    fn of_source(source: &str) -> Self {
        let mut environment = dialect::environment();
        environment.set_fuel(Some(limits::fuel(source)));
        Self {
            path: None,
            prepared: source::prepared(source),
            source: source.to_owned(),
            environment,
            special: BTreeMap::new(),
            is_endless: AtomicBool::new(false),
        }
    }

    /// The file name for error messages.
    fn name(&self) -> PathBuf {
        self.path.clone().unwrap_or_else(|| FILE.into())
    }

    fn given(&self, conversation: &Conversation, ending: Ending) -> Result<Jinja, Error> {
        let mut is_marked = false;
        conversation.for_texts(&mut |text| is_marked |= text.contains(MARKS));
        if is_marked {
            let cause = "a message holds U+FDD0 or U+FDD1, which are no characters";
            return Err(Error::new(ErrorKind::InvalidOperation, cause));
        }
        let messages = conversation.messages.iter().map(Message::to_json);
        let messages = messages.map(Jinja::from_serialize);
        let tools = match conversation.tools.as_slice() {
            [] => Jinja::from(()),
            tools => Jinja::from_serialize(tools),
        };
        Ok(context! {
            messages => messages.collect::<Vec<_>>(),
            tools,
            add_generation_prompt => matches!(ending, Ending::Prompt),
            documents => (),
            ..Jinja::from_serialize(&self.special)
        })
    }
}

fn without_marks(text: &str) -> String {
    text.replace(MARKS, "")
}

/// The template `name` in tokenizer_config.json, where a string is the default and a list has named
/// templates. A list must contain a default.
fn of_config(config: &Config, name: &str) -> Result<Option<(PathBuf, String)>, DataError> {
    let Some(template) = config.entry(KEY) else {
        return Ok(None);
    };
    let is_default = name == "default";
    let found = match template {
        Value::Array(named) => {
            let mut named = named.iter();
            let named = named.find(|entry| entry.get("name").and_then(Value::as_str) == Some(name));
            named.and_then(|entry| entry.get("template")?.as_str())
        }
        template => template.as_str().filter(|_| is_default),
    };
    match found {
        Some(source) => Ok(Some((config.path.clone(), source.to_owned()))),
        None if !is_default => Ok(None),
        None => Err(DataError::Layout {
            path: config.path.clone(),
            expected: "a string as `chat_template`, or a list with a template named `default`",
            found: describe(template),
        }),
    }
}

/// The engine's message without the location, which is reported separately.
fn cause(error: &Error) -> String {
    match error.detail() {
        Some(detail) => detail.to_owned(),
        None => error.kind().to_string(),
    }
}

#[cfg(test)]
mod tests;
