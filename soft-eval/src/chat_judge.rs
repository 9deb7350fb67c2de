//! A judge on a server with OpenAI's chat API, such as OpenAI's own, llama.cpp's, vLLM's or
//! Ollama's.
//!
//! The question is that of [`judge_prompt`](crate::judge_prompt), the reply is parsed by
//! [`Verdict::parse`](crate::Verdict::parse). Requests are repeated with growing pauses if the
//! server is busy or does not reply, but not if it refuses the request.

use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::{Comparison, EvalError, Judge, Judgement, Verdict, judge_prompt};

/// Address and retries.
#[derive(Clone)]
pub struct ChatSettings {
    /// Address up to the version, such as `https://api.openai.com/v1` or
    /// `http://localhost:8080/v1`.
    pub url: String,
    /// The model's name on the server.
    pub model: String,
    /// Bearer token.
    pub key: Option<String>,
    /// Timeout of one request.
    pub timeout: Duration,
    /// Maximum number of attempts per verdict, at least 1.
    pub attempts: u32,
    /// Pause after the first failure, doubled after each further one. A `Retry-After` header in
    /// seconds replaces it, up to two minutes.
    pub pause: Duration,
    /// Maximum number of tokens of a reply.
    pub max_tokens: u32,
}

impl ChatSettings {
    /// Five attempts with a timeout of a minute, pauses from one second on, replies of at most 64
    /// tokens.
    pub fn new(url: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            model: model.into(),
            key: None,
            timeout: Duration::from_secs(60),
            attempts: 5,
            pause: Duration::from_secs(1),
            max_tokens: 64,
        }
    }
}

/// Omits the key, which must not be logged.
impl std::fmt::Debug for ChatSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatSettings")
            .field("url", &self.url)
            .field("model", &self.model)
            .field("timeout", &self.timeout)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

/// Maximum pause between attempts, whatever `Retry-After` asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

/// A judge that asks a chat server.
#[derive(Debug)]
pub struct ChatJudge {
    settings: ChatSettings,
    agent: ureq::Agent,
}

struct Failure {
    reason: String,
    /// Whether another attempt may help.
    passing: bool,
    /// The `Retry-After` of the server.
    wait: Option<Duration>,
}

impl ChatJudge {
    /// A judge with these settings. Nothing is sent yet.
    pub fn new(settings: ChatSettings) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(settings.timeout))
            // An error would drop the body, which says why.
            .http_status_as_error(false)
            .build();
        Self {
            settings,
            agent: config.into(),
        }
    }

    fn ask(&self, question: &str) -> Result<Judgement, Failure> {
        let settings = &self.settings;
        let url = format!("{}/chat/completions", settings.url.trim_end_matches('/'));
        let mut request = self.agent.post(&url);
        if let Some(key) = &settings.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let sent = request.send_json(json!({
            "model": settings.model,
            "messages": [{ "role": "user", "content": question }],
            "temperature": 0,
            "max_tokens": settings.max_tokens,
        }));
        let mut response = sent.map_err(|error| Failure::passing(error.to_string()))?;
        let status = response.status();
        let wait = response.headers().get("retry-after");
        let wait = wait.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let body = response.body_mut().read_to_string();
        let body = body.map_err(|error| Failure::passing(error.to_string()))?;
        if is_too_long(status.as_u16(), &body) {
            // This pair cannot be judged, but others can: no error.
            let reply = format!("status {}: {}", status.as_u16(), shortened(&body));
            return Ok(unclear(reply));
        }
        if !status.is_success() {
            return Err(Failure {
                reason: format!("status {}: {}", status.as_u16(), shortened(&body)),
                passing: status.is_server_error() || [408, 429].contains(&status.as_u16()),
                wait: wait.map(|wait| Duration::from_secs(wait).min(LONGEST_PAUSE)),
            });
        }
        let reply: Value = serde_json::from_str(&body).unwrap_or(Value::Null);
        let choice = &reply["choices"][0];
        if let Value::Object(message) = &choice["message"]
            && message.get("content").is_none_or(Value::is_null)
        {
            // A refusal, a content filter, or reasoning that used up all tokens. Reasoning may name
            // the responses, which is no verdict.
            return Ok(unclear(choice.to_string()));
        }
        let text = choice["message"]["content"].as_str();
        let text = text.ok_or_else(|| Failure {
            reason: format!("no chat completion in {:?}", shortened(&body)),
            passing: false,
            wait: None,
        })?;
        Ok(Judgement {
            verdict: Verdict::parse(text),
            reply: Some(text.to_owned()),
        })
    }
}

impl Failure {
    fn passing(reason: String) -> Self {
        Self {
            reason,
            passing: true,
            wait: None,
        }
    }
}

/// Whether the reply says that the text exceeds the context of the model.
fn is_too_long(status: u16, body: &str) -> bool {
    let body = body.to_lowercase();
    status == 413 || status == 400 && body.contains("context") && body.contains("length")
}

fn unclear(reply: String) -> Judgement {
    Judgement {
        verdict: Verdict::Unclear,
        reply: Some(reply),
    }
}

fn shortened(text: &str) -> String {
    text.trim().chars().take(300).collect()
}

impl Judge for ChatJudge {
    fn compare(&mut self, comparison: &Comparison) -> Result<Judgement, EvalError> {
        let question = judge_prompt(comparison);
        let attempts = self.settings.attempts.max(1);
        let mut pause = self.settings.pause;
        for attempt in 1.. {
            match self.ask(&question) {
                Ok(judgement) => return Ok(judgement),
                Err(failure) if failure.passing && attempt < attempts => {
                    sleep(failure.wait.unwrap_or(pause));
                    pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
                }
                Err(failure) => {
                    let tries = if attempt == 1 { "attempt" } else { "attempts" };
                    let reason = format!(
                        "{} after {attempt} {tries}: {}",
                        self.settings.url, failure.reason
                    );
                    return Err(EvalError::Judge { reason });
                }
            }
        }
        // Unreachable: the last attempt returns.
        Err(EvalError::Judge {
            reason: "no attempt was made".to_owned(),
        })
    }
}
