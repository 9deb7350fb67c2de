//! Conversations to text, as a model folder's chat template says.
//!
//! Knows where a folder keeps its template and what the template is given; knows no tokens. What
//! a model is trained on and what it is asked with come from the same template.
//!
//! Source: `apply_chat_template` of transformers, which the golden test in `tests/chat` holds it
//! to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minijinja::{Environment, Error, ErrorKind, context, value::Value as Jinja};
use serde_json::Value;

use crate::control::ControlTokens;
use crate::rows::{describe, if_there, read_text};
use crate::special::{Config, Files};
use crate::{Conversation, DataError, Message};

mod bounds;
mod date;
mod dialect;
mod python;
mod run;
mod source;

use run::Program;
use source::MARKS;

const FILE: &str = "chat_template.jinja";
const KEY: &str = "chat_template";

/// Special tokens that templates may write, as they are called in tokenizer_config.json.
const SPECIAL: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// A template for tokenizers with ChatML's tokens, in folders that have none (OpenAI, 2023).
const CHAT_ML: &str = "\
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
";

/// A template for all other tokenizers: turns end by the end-of-text token, as in TinyLlama's chats.
const PLAIN: &str = "\
    {{- '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\\n' }}
{%- endif %}
";

/// How both begin: models disagree on how tools are written, so neither guesses.
const MESSAGES: &str = "\
{%- for message in messages %}
    {%- if tools or message['tool_calls'] or message['content'] is not string %}
        {{- raise_exception('the default chat template has no tools: the model folder needs a template that has') }}
    {%- endif %}
";

/// The chat template of a model folder.
///
/// Templates are Jinja as transformers runs it: blocks take their line breaks with them, and
/// `raise_exception`, `strftime_now`, `tojson`, `namespace`, `break`, `continue`, `generation`,
/// `%` of texts, tuples and the methods of Python's strings, lists and dictionaries are there.
/// Templates see `messages`, `tools`, `add_generation_prompt`, the special tokens of
/// tokenizer_config.json, and `documents` as none. A template cannot reach files, and is stopped
/// where it takes more steps, time or memory than a conversation needs.
///
/// Differs from transformers: `strftime_now` tells the time in UTC, not local time.
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
    /// The file that the template stands in; none for a default.
    path: Option<PathBuf>,
    source: String,
    /// What is compiled of it.
    prepared: String,
    environment: Environment<'static>,
    special: BTreeMap<&'static str, String>,
}

/// An answer of the assistant in a conversation, and what comes before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// The text that the model is prompted with for this answer.
    pub prompt: String,
    /// That text with the answer.
    pub answered: String,
    /// All that is rendered with the answer: it begins with `answered`.
    pub whole: String,
}

/// What comes behind the messages.
#[derive(Clone, Copy)]
enum Ending {
    Messages,
    Prompt,
}

impl ChatTemplate {
    /// Reads the template of a model `folder`: `chat_template.jinja`, else `chat_template` in
    /// tokenizer_config.json, where of several templates `default` is taken; in a folder that has
    /// none, ChatML where the tokenizer has its tokens, else turns that end by `eos`.
    ///
    /// It is compiled where it is used, so that a malformed one is in nobody's way who has no chats.
    pub(crate) fn of_folder(
        folder: &Path,
        files: &Files,
        controls: &ControlTokens,
        [bos, eos]: [Option<String>; 2],
    ) -> Result<Self, DataError> {
        let mut special: BTreeMap<_, _> = SPECIAL
            .into_iter()
            .filter_map(|key| Some((key, files.token_text(key)?.to_owned())))
            .collect();
        let path = folder.join(FILE);
        let found = match if_there(read_text(&path))? {
            Some(source) => Some((path, source)),
            None => of_config(&files.tokenizer)?,
        };
        if let Some((path, source)) = found {
            return Ok(Self::new(Some(path), source, special));
        }
        let chat_ml = ["<|im_start|>", "<|im_end|>"];
        let turns = match chat_ml.iter().all(|token| controls.contains(token)) {
            true => CHAT_ML,
            false => PLAIN,
        };
        let source = match bos {
            Some(_) => format!("{{{{- bos_token }}}}\n{MESSAGES}{turns}"),
            None => format!("{MESSAGES}{turns}"),
        };
        special.extend(bos.map(|bos| ("bos_token", bos)));
        special.extend(eos.map(|eos| ("eos_token", eos)));
        Ok(Self::new(None, source, special))
    }

    fn new(path: Option<PathBuf>, source: String, special: BTreeMap<&'static str, String>) -> Self {
        Self {
            path,
            prepared: source::prepared(&source),
            source,
            environment: dialect::environment(),
            special,
        }
    }

    /// Whether the folder has no template, so that this is one of this library's.
    pub fn is_default(&self) -> bool {
        self.path.is_none()
    }

    /// The template as it stands in its file, or should be put into one.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a conversation that is over.
    ///
    /// # Errors
    /// When there are no messages, or the template is malformed, refuses them, fails or takes too
    /// much time or memory.
    pub fn render(&self, conversation: &Conversation) -> Result<String, DataError> {
        self.text(conversation, Ending::Messages)
    }

    /// The text that prompts the model for its next turn.
    ///
    /// # Errors
    /// As for [`render`](ChatTemplate::render).
    pub fn render_prompt(&self, conversation: &Conversation) -> Result<String, DataError> {
        self.text(conversation, Ending::Prompt)
    }

    fn text(&self, conversation: &Conversation, ending: Ending) -> Result<String, DataError> {
        self.with_program(|program| Ok(without_marks(&self.run(program, conversation, ending)?)))
    }

    /// The answers of the assistant, in order, each with what comes before it.
    ///
    /// What the assistant generates is what the template's `generation` tags say; without them,
    /// what a rendering with the answer adds to the prompt for it.
    ///
    /// # Errors
    /// As for [`render`](ChatTemplate::render); when the prompt for an answer is not how the
    /// rendering with the answer begins.
    pub(crate) fn turns(&self, conversation: &Conversation) -> Result<Vec<Turn>, DataError> {
        let answers: Vec<usize> = conversation.answers().collect();
        let Some(last) = answers.last() else {
            return Ok(Vec::new());
        };
        if source::has_generation_tags(&self.source) {
            let whole = conversation.first(last + 1);
            let marked =
                self.with_program(|program| self.run(program, &whole, Ending::Messages))?;
            return Ok(marked_turns(&marked));
        }
        let turn = |program: &Program, index: usize| {
            let prompt = self.run(program, &conversation.first(index), Ending::Prompt)?;
            let whole = self.run(program, &conversation.first(index + 1), Ending::Messages)?;
            Ok((prompt, whole))
        };
        let rendered = self.with_program(|program| {
            let turns = answers.iter().map(|&index| turn(program, index));
            turns.collect::<Result<Vec<_>, _>>()
        })?;
        let turns = answers.iter().zip(rendered);
        let turns = turns.map(
            |(&index, (prompt, whole))| match whole.starts_with(&prompt) {
                true => Ok(Turn {
                    answered: whole.clone(),
                    prompt,
                    whole,
                }),
                false => Err(self.prompt_differs(index, &prompt, &whole)),
            },
        );
        turns.collect()
    }

    /// What a template is to be used for: on a thread of its own, since templates can nest.
    fn with_program<T: Send>(
        &self,
        work: impl FnOnce(&Program) -> Result<T, Error> + Send,
    ) -> Result<T, DataError> {
        let run = || work(&Program::new(&self.environment, &self.prepared)?);
        run::with_stack(run).map_err(|error| DataError::ChatTemplate {
            path: self.path.clone().unwrap_or_else(|| FILE.into()),
            line: error.line().unwrap_or(1),
            cause: cause(&error),
        })
    }

    fn run(
        &self,
        program: &Program,
        conversation: &Conversation,
        ending: Ending,
    ) -> Result<String, Error> {
        let messages: Vec<_> = conversation.messages.iter().map(Message::to_json).collect();
        if messages.iter().any(|message| holds_any(message, &MARKS)) {
            let cause = "a message holds U+FDD0 or U+FDD1, which are no characters";
            return Err(Error::new(ErrorKind::InvalidOperation, cause));
        }
        let messages = messages.into_iter().map(Jinja::from_serialize);
        let tools = match conversation.tools.as_slice() {
            [] => Jinja::from(()),
            tools => Jinja::from_serialize(tools),
        };
        program.render(context! {
            messages => messages.collect::<Vec<_>>(),
            tools,
            add_generation_prompt => matches!(ending, Ending::Prompt),
            documents => (),
            ..Jinja::from_serialize(&self.special)
        })
    }

    fn prompt_differs(&self, index: usize, prompt: &str, whole: &str) -> DataError {
        let same = prompt.chars().zip(whole.chars());
        let same: usize = same
            .take_while(|(a, b)| a == b)
            .map(|(a, _)| a.len_utf8())
            .sum();
        let shown = |text: &str| text[same..].chars().take(40).collect::<String>();
        DataError::ChatPrompt {
            path: self.path.clone().unwrap_or_else(|| FILE.into()),
            message: index,
            prompt: shown(prompt),
            found: shown(whole),
        }
    }
}

/// The turns of a text with [`MARKS`] around what is generated.
fn marked_turns(marked: &str) -> Vec<Turn> {
    let whole = without_marks(marked);
    let [start, end] = MARKS;
    let mut turns = Vec::new();
    let mut plain = 0;
    let mut begun = None;
    for character in marked.chars() {
        if character == start {
            begun = Some(plain);
        } else if character == end {
            turns.extend(begun.take().map(|begun| Turn {
                prompt: whole[..begun].to_owned(),
                answered: whole[..plain].to_owned(),
                whole: whole.clone(),
            }));
        } else {
            plain += character.len_utf8();
        }
    }
    turns
}

/// Whether any text in a value holds one of these characters.
fn holds_any(value: &Value, characters: &[char]) -> bool {
    match value {
        Value::String(text) => text.contains(characters),
        Value::Array(items) => items.iter().any(|item| holds_any(item, characters)),
        Value::Object(entries) => entries.values().any(|item| holds_any(item, characters)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn without_marks(text: &str) -> String {
    text.replace(MARKS, "")
}

/// The template in tokenizer_config.json: a string, or a list of templates with names.
fn of_config(config: &Config) -> Result<Option<(PathBuf, String)>, DataError> {
    let Some(template) = config.entry(KEY) else {
        return Ok(None);
    };
    let found = match template {
        Value::Array(named) => named
            .iter()
            .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))
            .and_then(|entry| entry.get("template")?.as_str()),
        template => template.as_str(),
    };
    let refusal = || DataError::Layout {
        path: config.path.clone(),
        expected: "a string as `chat_template`, or a list with a template named `default`",
        found: describe(template),
    };
    let source = found.ok_or_else(refusal)?.to_owned();
    Ok(Some((config.path.clone(), source)))
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
