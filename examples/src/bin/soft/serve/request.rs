//! Requests in OpenAI's form, checked.

use serde::Deserialize;
use soft_core::decode::Logprobs;
use soft_data::{Conversation, StopStrings};

use super::fields::{object, typed, within};
use super::messages::WireMessage;
use super::refusal::Refusal;
use super::shared_fields::{OneOrMore, SharedFields};

/// Largest values of fields.
const MOST_LOGPROBS: usize = 20;
const MOST_STOPS: usize = 16;
const MOST_PROMPTS: usize = 128;
const MOST_MESSAGES: usize = 1024;
const MOST_LENS_BYTES: usize = 4096;

/// Tokens of a completion if the request does not say, as in OpenAI's API.
const COMPLETION_TOKENS: usize = 16;

const COMPLETION: [&str; 4] = ["prompt", "echo", "suffix", "best_of"];

const CHAT: [&str; 4] = [
    "messages",
    "max_completion_tokens",
    "top_logprobs",
    "response_format",
];

/// The prompts of a completion: texts or token ids.
#[derive(Deserialize, Clone, Debug)]
#[serde(untagged)]
pub enum Prompts {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    TokenLists(Vec<Vec<u32>>),
}

#[derive(Deserialize, Debug)]
struct Completion {
    prompt: Prompts,
    #[serde(default)]
    echo: Option<bool>,
    #[serde(default)]
    logprobs: Option<usize>,
    #[serde(default)]
    suffix: Option<String>,
    #[serde(default)]
    best_of: Option<usize>,
}

#[derive(Deserialize, Debug)]
struct Chat {
    messages: Vec<WireMessage>,
    #[serde(default)]
    max_completion_tokens: Option<usize>,
    #[serde(default)]
    logprobs: Option<bool>,
    #[serde(default)]
    top_logprobs: Option<usize>,
    #[serde(default)]
    response_format: Option<ResponseFormat>,
}

#[derive(Deserialize, Debug)]
struct ResponseFormat {
    r#type: String,
}

/// What is to be continued.
#[derive(Debug)]
pub enum Input {
    Prompts(Prompts),
    Chat(Conversation),
}

/// A request whose fields are in range.
#[derive(Debug)]
pub struct Ask {
    pub input: Input,
    pub common: SharedFields,
    /// `None`: as many as the context holds.
    pub max_tokens: Option<usize>,
    pub echo: bool,
    pub logprobs: Option<Logprobs>,
    pub choices: usize,
    pub stops: StopStrings,
}

/// A request for the best next tokens of a prompt at every depth.
#[derive(Deserialize, Debug)]
pub struct LensAsk {
    pub prompt: String,
}

impl LensAsk {
    pub fn read(body: &[u8]) -> Result<Self, Refusal> {
        let asked: Self = typed(&object(body, &["prompt"])?)?;
        within("prompt", asked.prompt.len(), 0..=MOST_LENS_BYTES, "bytes")?;
        Ok(asked)
    }
}

impl Ask {
    /// Reads a request for a completion.
    pub fn completion(body: &[u8]) -> Result<Self, Refusal> {
        let value = object(body, &COMPLETION)?;
        let (common, asked): (SharedFields, Completion) = (typed(&value)?, typed(&value)?);
        if asked
            .suffix
            .as_deref()
            .is_some_and(|suffix| !suffix.is_empty())
        {
            return Err(Refusal::invalid(
                "suffix",
                "suffix: the model has no infilling",
            ));
        }
        let best_of = asked.best_of.unwrap_or(1);
        if best_of != 1 && Some(best_of) != common.n {
            return Err(Refusal::invalid(
                "best_of",
                format!("best_of is {best_of}: expected n, since no answers are discarded"),
            ));
        }
        if let Prompts::Texts(_) | Prompts::TokenLists(_) = &asked.prompt {
            let count = asked.prompt.len();
            within("prompt", count, 1..=MOST_PROMPTS, "prompts")?;
        }
        let echo = asked.echo.unwrap_or(false);
        if let Some(top) = asked.logprobs {
            within("logprobs", top, 0..=MOST_LOGPROBS, "tokens")?;
        }
        let logprobs = asked.logprobs.map(|top| Logprobs { top, prompt: echo });
        let max_tokens = common.max_tokens.unwrap_or(COMPLETION_TOKENS);
        if max_tokens == 0 && !echo {
            return Err(Refusal::invalid(
                "max_tokens",
                "max_tokens is 0: expected at least 1, or echo",
            ));
        }
        Self::new(
            common,
            Input::Prompts(asked.prompt),
            Some(max_tokens),
            logprobs,
            echo,
        )
    }

    /// Reads a request for the next turn of a conversation.
    pub fn chat(body: &[u8]) -> Result<Self, Refusal> {
        let value = object(body, &CHAT)?;
        let (common, asked): (SharedFields, Chat) = (typed(&value)?, typed(&value)?);
        let format = asked.response_format.map(|format| format.r#type);
        if format.as_deref().is_some_and(|format| format != "text") {
            return Err(Refusal::invalid(
                "response_format",
                "response_format: only text is supported",
            ));
        }
        within(
            "messages",
            asked.messages.len(),
            1..=MOST_MESSAGES,
            "messages",
        )?;
        let messages = asked.messages.into_iter().map(WireMessage::message);
        let messages = messages.collect::<Result<Vec<_>, _>>()?;
        let (wanted, top) = (asked.logprobs.unwrap_or(false), asked.top_logprobs);
        if !wanted && top.is_some_and(|top| top > 0) {
            return Err(Refusal::invalid(
                "top_logprobs",
                "top_logprobs needs logprobs: true",
            ));
        }
        let top = top.unwrap_or(0);
        within("top_logprobs", top, 0..=MOST_LOGPROBS, "tokens")?;
        let logprobs = wanted.then_some(Logprobs { top, prompt: false });
        let max_tokens = asked.max_completion_tokens.or(common.max_tokens);
        if max_tokens == Some(0) {
            return Err(Refusal::invalid(
                "max_tokens",
                "max_tokens is 0: expected at least 1",
            ));
        }
        Self::new(
            common,
            Input::Chat(messages.into()),
            max_tokens,
            logprobs,
            false,
        )
    }

    fn new(
        common: SharedFields,
        input: Input,
        max_tokens: Option<usize>,
        logprobs: Option<Logprobs>,
        echo: bool,
    ) -> Result<Self, Refusal> {
        common.check()?;
        let choices = common.n.unwrap_or(1);
        let stops = common.stop.clone().map_or(Vec::new(), OneOrMore::into_vec);
        within("stop", stops.len(), 0..=MOST_STOPS, "stop strings")?;
        let stops = StopStrings::new(stops);
        Ok(Self {
            input,
            max_tokens,
            echo,
            logprobs,
            choices,
            stops: stops.map_err(|error| Refusal::invalid("stop", error.to_string()))?,
            common,
        })
    }
}

impl Prompts {
    pub fn len(&self) -> usize {
        match self {
            Self::Text(_) | Self::Tokens(_) => 1,
            Self::Texts(texts) => texts.len(),
            Self::TokenLists(lists) => lists.len(),
        }
    }
}
