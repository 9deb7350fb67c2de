//! Requests in OpenAI's form, checked and turned into jobs.

use serde::Deserialize;
use serde_json::Value;
use soft_core::decode::Logprobs;
use soft_data::{Conversation, Message, StopStrings};
use soft_examples::decoding::DecodingArgs;

use super::refusal::Refusal;

/// Largest values of fields.
const MOST_CHOICES: usize = 16;
const MOST_LOGPROBS: usize = 20;
const MOST_STOPS: usize = 16;
const MOST_PROMPTS: usize = 128;
const MOST_MESSAGES: usize = 1024;
const MOST_LENS_BYTES: usize = 4096;
const MOST_SETTING_BYTES: usize = 1024;

/// Tokens of a completion if the request does not say, as in OpenAI's API.
const COMPLETION_TOKENS: usize = 16;

/// Fields that both kinds of requests have. `null` is as good as absent.
#[derive(Deserialize, Default, Clone, Debug)]
#[serde(default)]
pub struct Common {
    pub model: Option<String>,
    pub n: Option<usize>,
    pub seed: Option<i64>,
    pub stop: Option<OneOrMore<String>>,
    pub stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    max_tokens: Option<usize>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    logit_bias: Option<serde_json::Map<String, Value>>,
    // Beyond OpenAI's API.
    top_k: Option<usize>,
    min_p: Option<f64>,
    repetition_penalty: Option<f64>,
    ignore_eos: Option<bool>,
    /// As `--mode` of `soft generate`.
    mode: Option<String>,
    exits: Option<String>,
    policy: Option<String>,
    thresholds: Option<String>,
    draft_length: Option<String>,
    /// Milliseconds per token: the deepest exit that meets it.
    pub max_ms_per_token: Option<f64>,
}

/// Fields that both kinds may have and that change nothing.
const IGNORED: [&str; 8] = [
    "user",
    "store",
    "metadata",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "parallel_tool_calls",
    "reasoning_effort",
];

const COMMON: [&str; 23] = [
    "model",
    "n",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "temperature",
    "top_p",
    "max_tokens",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "top_k",
    "min_p",
    "repetition_penalty",
    "ignore_eos",
    "mode",
    "exits",
    "policy",
    "thresholds",
    "draft_length",
    "max_ms_per_token",
    "logprobs",
];

const COMPLETION: [&str; 4] = ["prompt", "echo", "suffix", "best_of"];

const CHAT: [&str; 4] = [
    "messages",
    "max_completion_tokens",
    "top_logprobs",
    "response_format",
];

#[derive(Deserialize, Clone, Copy, Debug)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Deserialize, Clone, Debug)]
#[serde(untagged)]
pub enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

impl<T> OneOrMore<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::More(more) => more,
        }
    }
}

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

#[derive(Deserialize, Debug)]
struct WireMessage {
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
    pub common: Common,
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
        let (common, asked): (Common, Completion) = (typed(&value)?, typed(&value)?);
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
        let (common, asked): (Common, Chat) = (typed(&value)?, typed(&value)?);
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
        common: Common,
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

impl Common {
    fn check(&self) -> Result<(), Refusal> {
        let texts = [
            ("mode", &self.mode),
            ("exits", &self.exits),
            ("policy", &self.policy),
            ("thresholds", &self.thresholds),
            ("draft_length", &self.draft_length),
        ];
        for (name, text) in texts {
            let bytes = text.as_ref().map_or(0, String::len);
            within(name, bytes, 0..=MOST_SETTING_BYTES, "bytes")?;
        }
        within("n", self.n.unwrap_or(1), 1..=MOST_CHOICES, "answers")?;
        let penalties = [
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
        ];
        for (name, penalty) in penalties {
            if penalty.is_some_and(|penalty| penalty != 0.0) {
                return Err(Refusal::invalid(
                    name,
                    format!("{name} is not supported: expected 0; repetition_penalty is"),
                ));
            }
        }
        if self
            .logit_bias
            .as_ref()
            .is_some_and(|bias| !bias.is_empty())
        {
            return Err(Refusal::invalid(
                "logit_bias",
                "logit_bias is not supported",
            ));
        }
        let temperature = self.temperature.unwrap_or(1.0);
        if !(0.0..=100.0).contains(&temperature) {
            return Err(Refusal::invalid(
                "temperature",
                format!("temperature is {temperature}: expected 0 to 100"),
            ));
        }
        if self.max_ms_per_token.is_some_and(|budget| budget <= 0.0) {
            return Err(Refusal::invalid(
                "max_ms_per_token",
                "max_ms_per_token: expected a number above 0",
            ));
        }
        if self.max_ms_per_token.is_some() && self.mode.is_some() {
            return Err(Refusal::invalid(
                "max_ms_per_token",
                "max_ms_per_token chooses the exit: expected no mode beside it",
            ));
        }
        Ok(())
    }

    pub fn includes_usage(&self) -> bool {
        self.stream_options
            .is_some_and(|options| options.include_usage)
    }

    /// The decoding arguments in this mode, unless the request names another.
    pub fn decoding(
        &self,
        mode: Option<String>,
        max_new_tokens: usize,
    ) -> Result<DecodingArgs, Refusal> {
        let mode = match (mode, &self.mode) {
            (Some(of_model), Some(asked)) if of_model != *asked => {
                return Err(Refusal::invalid(
                    "mode",
                    format!("mode is {asked:?}, but the model's name says {of_model:?}"),
                ));
            }
            (of_model, asked) => asked
                .clone()
                .or(of_model)
                .unwrap_or_else(|| "full".to_owned()),
        };
        // At temperature 0 these select nothing, and clients send them all the same.
        let temperature = self.temperature.unwrap_or(1.0);
        let sampled = temperature > 0.0;
        let args = DecodingArgs {
            exits: parsed("exits", self.exits.as_deref())?,
            policy: self.policy.clone(),
            thresholds: parsed("thresholds", self.thresholds.as_deref())?,
            draft_length: self.draft_length.clone(),
            ignore_eos: self.ignore_eos.unwrap_or(false),
            temperature,
            top_k: self.top_k.filter(|_| sampled),
            top_p: self.top_p.filter(|_| sampled),
            min_p: self.min_p.filter(|_| sampled),
            repetition_penalty: self.repetition_penalty.unwrap_or(1.0),
            ..DecodingArgs::of_mode(&mode, max_new_tokens)
        };
        args.refuse_unused()
            .map_err(|error| Refusal::bad_request(error.to_string()))?;
        Ok(args)
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

impl WireMessage {
    fn message(self) -> Result<Message, Refusal> {
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

/// A JSON object whose fields are known.
fn object(body: &[u8], own: &[&str]) -> Result<Value, Refusal> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| Refusal::bad_request(format!("the body is not JSON: {error}")))?;
    let Value::Object(fields) = &value else {
        return Err(Refusal::bad_request("the body is not a JSON object"));
    };
    let known =
        |name: &str| COMMON.contains(&name) || own.contains(&name) || IGNORED.contains(&name);
    let mut given = fields.iter().filter(|(_, value)| !value.is_null());
    match given.find(|(name, _)| !known(name)) {
        Some((name, _)) => Err(Refusal::bad_request(format!("unknown field {name:?}"))),
        None => Ok(value),
    }
}

fn typed<'a, T: Deserialize<'a>>(value: &'a Value) -> Result<T, Refusal> {
    serde_path_to_error::deserialize(value).map_err(|error| Refusal::bad_request(error.to_string()))
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
    param: &'static str,
    text: Option<&str>,
) -> Result<Option<T>, Refusal> {
    let parsed = text.map(str::parse).transpose();
    parsed.map_err(|error: T::Err| Refusal::invalid(param, error.to_string()))
}

fn within(
    param: &'static str,
    found: usize,
    range: std::ops::RangeInclusive<usize>,
    what: &str,
) -> Result<(), Refusal> {
    if range.contains(&found) {
        return Ok(());
    }
    let (from, to) = (range.start(), range.end());
    Err(Refusal::invalid(
        param,
        format!("{param}: {found} {what}: expected {from} to {to}"),
    ))
}
