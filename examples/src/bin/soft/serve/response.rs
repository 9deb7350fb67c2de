//! Answers in OpenAI's form, whole and as server-sent events.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use soft_core::decode::TokenLogprobs;
use soft_data::Tokenizer;

use super::queue::{EndReason, Token};

/// Which of the two APIs answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Completion,
    Chat,
}

/// What all parts of a response share.
#[derive(Clone, Debug)]
pub struct Head {
    pub kind: Kind,
    pub id: String,
    pub created: u64,
    pub model: String,
}

impl Head {
    pub fn new(kind: Kind, number: u64, model: String) -> Self {
        let created = SystemTime::now().duration_since(UNIX_EPOCH);
        let prefix = match kind {
            Kind::Completion => "cmpl",
            Kind::Chat => "chatcmpl",
        };
        let created = created.map_or(0, |time| time.as_secs());
        Self {
            kind,
            id: format!("{prefix}-{created:x}-{number:x}"),
            created,
            model,
        }
    }

    fn object(&self, streamed: bool) -> &'static str {
        match (self.kind, streamed) {
            (Kind::Completion, _) => "text_completion",
            (Kind::Chat, false) => "chat.completion",
            (Kind::Chat, true) => "chat.completion.chunk",
        }
    }

    fn json(&self, streamed: bool, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id, "object": self.object(streamed), "created": self.created,
            "model": self.model, "choices": choices,
        })
    }

    /// A whole response.
    pub fn whole(&self, choices: Vec<Value>, usage: Usage) -> Value {
        let mut response = self.json(false, choices);
        response["usage"] = usage.json();
        response
    }

    /// One event of a stream.
    pub fn chunk(&self, choice: Value) -> Value {
        self.json(true, vec![choice])
    }

    /// The last event of a stream, if the client asked for it.
    pub fn usage_chunk(&self, usage: Usage) -> Value {
        let mut response = self.json(true, Vec::new());
        response["usage"] = usage.json();
        response
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub prompt: usize,
    pub completion: usize,
}

impl Usage {
    fn json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt, "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        })
    }
}

pub fn finish_reason(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Stop => "stop",
        EndReason::Length => "length",
        // OpenAI has no reason of this kind.
        EndReason::Time => "time_limit",
    }
}

/// Log-probabilities of tokens as a response gives them.
pub struct Scored<'a> {
    pub kind: Kind,
    pub tokenizer: &'a Tokenizer,
}

impl Scored<'_> {
    /// `first` is the prompt's first token, which has no log-probability. `offset`, the number of
    /// characters before the tokens, becomes that after them.
    pub fn json(&self, first: Option<u32>, tokens: &[TokenLogprobs], offset: &mut usize) -> Value {
        match self.kind {
            Kind::Completion => self.completion(first, tokens, offset),
            Kind::Chat => {
                let content: Vec<Value> = tokens.iter().map(|token| self.chat(token)).collect();
                json!({"content": content, "refusal": null})
            }
        }
    }

    fn completion(
        &self,
        first: Option<u32>,
        tokens: &[TokenLogprobs],
        offset: &mut usize,
    ) -> Value {
        let ids = first
            .into_iter()
            .chain(tokens.iter().map(|token| token.token));
        let ids: Vec<u32> = ids.collect();
        let texts: Vec<String> = ids.iter().map(|token| self.text(*token)).collect();
        let blanks = first.map(|_| Value::Null);
        let logprobs = tokens.iter().map(|token| json!(token.logprob));
        let top = tokens.iter().map(|token| {
            let own = std::iter::once((token.token, token.logprob));
            let all = token.top.iter().copied().chain(own);
            all.map(|(token, logprob)| (self.text(token), json!(logprob)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        });
        let offsets = ids.iter().map(|token| {
            let start = *offset;
            *offset += self.own_text(*token).map_or(0, |text| text.chars().count());
            start
        });
        let offsets: Vec<usize> = offsets.collect();
        json!({
            "tokens": texts,
            "token_logprobs": blanks.clone().into_iter().chain(logprobs).collect::<Vec<_>>(),
            "top_logprobs": blanks.into_iter().chain(top).collect::<Vec<Value>>(),
            "text_offset": offsets,
        })
    }

    fn chat(&self, token: &TokenLogprobs) -> Value {
        let one = |token: u32, logprob: f32| {
            let bytes = self.own_text(token).map(String::into_bytes);
            json!({"token": self.text(token), "logprob": logprob, "bytes": bytes})
        };
        let mut entry = one(token.token, token.logprob);
        let top = token
            .top
            .iter()
            .map(|(token, logprob)| one(*token, *logprob));
        entry["top_logprobs"] = top.collect();
        entry
    }

    /// The text of a token; `token_id:N` if it has none by itself.
    fn text(&self, token: u32) -> String {
        self.own_text(token)
            .unwrap_or_else(|| format!("token_id:{token}"))
    }

    /// `None` for control tokens and parts of characters.
    fn own_text(&self, token: u32) -> Option<String> {
        let text = self.tokenizer.decode_continuation(&[token]).ok()?;
        (!text.is_empty() && !text.contains('\u{fffd}')).then_some(text)
    }
}

/// One choice, collected as its tokens come.
#[derive(Default)]
pub struct Choice {
    pub index: usize,
    pub text: String,
    pub tokens: Vec<u32>,
    pub exits: Vec<usize>,
    pub accepted: Vec<bool>,
    pub logprobs: Vec<TokenLogprobs>,
}

impl Choice {
    pub fn push(&mut self, token: Token) {
        self.text.push_str(&token.text);
        self.tokens.push(token.token);
        self.exits.push(token.exit);
        self.accepted.push(token.accepted);
        self.logprobs.extend(token.logprobs);
    }

    /// The choice as a whole response or, if `streamed`, an event of a stream gives it.
    pub fn json(
        &self,
        kind: Kind,
        streamed: bool,
        logprobs: Option<Value>,
        reason: Option<EndReason>,
    ) -> Value {
        let mut choice = json!({
            "index": self.index, "logprobs": logprobs,
            "finish_reason": reason.map(finish_reason),
            "token_ids": self.tokens, "exits": self.exits, "accepted": self.accepted,
        });
        match (kind, streamed) {
            (Kind::Completion, _) => choice["text"] = json!(self.text),
            (Kind::Chat, true) => choice["delta"] = json!({"content": self.text}),
            (Kind::Chat, false) => {
                choice["message"] =
                    json!({"role": "assistant", "content": self.text, "refusal": null});
            }
        }
        choice
    }
}
