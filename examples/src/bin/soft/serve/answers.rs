//! From a request to its jobs, and from their events to a response.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::Json;
use axum::http::StatusCode;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};
use soft_burn::DecodingDefaults;
use soft_core::decode::Logprobs;
use soft_core::{DecodeSettings, Prompt};
use soft_data::Tokenizer;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;

use super::costs::Costs;
use super::lens::{LensJob, MOST_TOKENS};
use super::metrics::Metrics;
use super::models::Models;
use super::queue::{Event, Job, Queue};
use super::refusal::Refusal;
use super::request::{Ask, Input, LensAsk, Prompts};
use super::response::{Choice, Head, Kind, Scored, Usage};
use super::streamed::Streamed;

/// What requests need to know.
pub struct Server {
    pub tokenizer: Arc<Tokenizer>,
    pub trained: DecodingDefaults,
    pub models: Models,
    /// Maximum number of positions of a row.
    pub positions: usize,
    pub queue: Queue,
    pub metrics: Metrics,
    pub costs: Costs,
    pub requests: AtomicU64,
}

/// An answer on its way.
pub struct Running {
    pub events: UnboundedReceiver<Event>,
    pub prompt: Vec<u32>,
    /// The prompt's text, if it is part of the answer.
    pub echo: Option<String>,
}

/// A response on its way.
pub struct Answers {
    pub head: Head,
    pub running: Vec<Running>,
    /// Tokens of all prompts; those of several choices count once.
    pub prompt_tokens: usize,
    pub logprobs: Option<Logprobs>,
    streams: bool,
    pub includes_usage: bool,
}

impl Server {
    /// Answers a request.
    pub async fn answer(self: Arc<Self>, kind: Kind, body: &[u8]) -> Result<Response, Refusal> {
        let ask = match kind {
            Kind::Completion => Ask::completion(body)?,
            Kind::Chat => Ask::chat(body)?,
        };
        let server = Arc::clone(&self);
        // Long texts take time to encode.
        let begun = tokio::task::spawn_blocking(move || server.begin(kind, ask));
        let begun = begun
            .await
            .map_err(|_| Refusal::failed("the prompt could not be encoded"))?;
        let mut answers = begun?;
        if answers.streams {
            let first = answers.first_event().await?;
            return Ok(self.stream(answers, first));
        }
        Ok(Json(answers.whole(&self.tokenizer).await?).into_response())
    }

    /// Answers with the best next tokens of a prompt at every depth.
    pub async fn lens(&self, body: &[u8]) -> Result<Response, Refusal> {
        let prompt = LensAsk::read(body)?.prompt;
        let tokens = self.tokenizer.encode_start(&prompt);
        let tokens = tokens.map_err(|error| Refusal::bad_request(error.to_string()))?;
        if !(1..=MOST_TOKENS.min(self.positions)).contains(&tokens.len()) {
            let message = format!(
                "prompt: {} tokens: expected 1 to {MOST_TOKENS}",
                tokens.len()
            );
            return Err(Refusal::invalid("prompt", message));
        }
        let text = |token: u32| {
            let text = self.tokenizer.decode_continuation(&[token]);
            text.unwrap_or_default()
        };
        let (sender, answer) = oneshot::channel();
        self.queue.add_lens(LensJob::new(tokens.clone(), sender))?;
        let answer = answer.await;
        let depths = answer.map_err(|_| Refusal::failed("decoding ended unexpectedly"))??;
        let depths: Vec<Value> = depths.iter().map(|depth| depth.json(text)).collect();
        let tokens: Vec<String> = tokens.iter().map(|token| text(*token)).collect();
        Ok(Json(json!({"tokens": tokens, "depths": depths})).into_response())
    }

    /// Puts the jobs of a request into the queue.
    fn begin(&self, kind: Kind, ask: Ask) -> Result<Answers, Refusal> {
        let (name, mode) = self.models.find(ask.common.model.as_deref())?;
        let mode = match ask.common.max_ms_per_token {
            Some(_) if mode.is_some() => {
                return Err(Refusal::invalid(
                    "max_ms_per_token",
                    format!("max_ms_per_token chooses the exit, but the model's name is {name:?}"),
                ));
            }
            Some(budget) => {
                let exit = self.costs.deepest_within(budget)?;
                Some(format!("exit={exit}"))
            }
            None => mode,
        };
        let prompts = self.encode(&ask)?;
        let prompt_tokens = prompts.iter().map(Vec::len).sum();
        let (mut jobs, mut running) = (Vec::new(), Vec::new());
        let seed = ask.common.seed.map_or_else(rand_seed, |seed| seed as u64);
        for tokens in prompts {
            let most = self.max_tokens(&ask, tokens.len())?;
            let settings = self.settings(&ask, mode.clone(), most)?;
            let echo = ask.echo.then(|| self.tokenizer.decode(&tokens)).transpose();
            let echo = echo.map_err(|error| Refusal::failed(error.to_string()))?;
            for _ in 0..ask.choices {
                let (sender, events) = unbounded_channel();
                jobs.push(Job {
                    prompt: Prompt {
                        tokens: tokens.clone(),
                        seed: seed.wrapping_add(jobs.len() as u64),
                    },
                    settings: settings.clone(),
                    stops: ask.stops.clone(),
                    events: sender,
                    arrived: Instant::now(),
                });
                running.push(Running {
                    events,
                    prompt: tokens.clone(),
                    echo: echo.clone(),
                });
            }
        }
        self.queue.add(jobs)?;
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        Ok(Answers {
            head: Head::new(kind, number, name),
            running,
            prompt_tokens,
            logprobs: ask.logprobs,
            streams: ask.common.stream.unwrap_or(false),
            includes_usage: ask.common.includes_usage(),
        })
    }

    fn encode(&self, ask: &Ask) -> Result<Vec<Vec<u32>>, Refusal> {
        let refused = |error: soft_data::DataError| Refusal::bad_request(error.to_string());
        let text = |text: &str| self.tokenizer.encode_start(text).map_err(refused);
        let prompts = match &ask.input {
            Input::Chat(conversation) => {
                vec![self.tokenizer.encode_chat(conversation).map_err(refused)?]
            }
            Input::Prompts(Prompts::Text(one)) => vec![text(one)?],
            Input::Prompts(Prompts::Texts(texts)) => {
                texts.iter().map(|it| text(it)).collect::<Result<_, _>>()?
            }
            Input::Prompts(Prompts::Tokens(tokens)) => vec![tokens.clone()],
            Input::Prompts(Prompts::TokenLists(lists)) => lists.clone(),
        };
        let vocab = self.tokenizer.vocab() as u32;
        for tokens in &prompts {
            if tokens.is_empty() {
                return Err(Refusal::invalid(
                    "prompt",
                    "a prompt has no tokens: expected at least one",
                ));
            }
            if let Some(token) = tokens.iter().find(|token| **token >= vocab) {
                let message = format!("token {token}: the vocabulary has {vocab} tokens");
                return Err(Refusal::invalid("prompt", message));
            }
        }
        Ok(prompts)
    }

    /// Maximum number of tokens of an answer to a prompt of this length.
    fn max_tokens(&self, ask: &Ask, prompt: usize) -> Result<usize, Refusal> {
        let room = (self.positions + 1).saturating_sub(prompt);
        let most = ask.max_tokens.unwrap_or(room);
        if prompt > self.positions || most > room {
            let message = format!(
                "the prompt has {prompt} tokens and max_tokens is {}: together at most {} tokens fit the context",
                ask.max_tokens
                    .map_or("not given".to_owned(), |most| most.to_string()),
                self.positions + 1
            );
            let status = StatusCode::BAD_REQUEST;
            return Err(Refusal::new(status, "context_length_exceeded", message));
        }
        Ok(most)
    }

    fn settings(
        &self,
        ask: &Ask,
        mode: Option<String>,
        most: usize,
    ) -> Result<DecodeSettings, Refusal> {
        let args = ask.common.decoding(mode, most)?;
        let settings = args.settings(&self.trained, &self.tokenizer);
        let settings = settings.map_err(|error| Refusal::bad_request(format!("{error:#}")))?;
        Ok(DecodeSettings {
            logprobs: ask.logprobs,
            ..settings
        })
    }

    fn stream(&self, answers: Answers, first: Option<Event>) -> Response {
        let streamed = Streamed::new(answers, first, Arc::clone(&self.tokenizer));
        let events = stream::unfold(streamed, |mut streamed| async move {
            let data = streamed.next().await?;
            Some((
                Ok::<_, Infallible>(SseEvent::default().data(data)),
                streamed,
            ))
        });
        let events = Sse::new(events).keep_alive(KeepAlive::default());
        events.into_response()
    }
}

impl Answers {
    /// The first event of the first answer, so that a request that fails at once has an error's
    /// status.
    async fn first_event(&mut self) -> Result<Option<Event>, Refusal> {
        let first = match self.running.first_mut() {
            Some(running) => running.events.recv().await,
            None => None,
        };
        match first {
            Some(Event::Failed(refusal)) => Err(refusal),
            event => Ok(event),
        }
    }

    async fn whole(self, tokenizer: &Tokenizer) -> Result<Value, Refusal> {
        let mut usage = Usage {
            prompt: self.prompt_tokens,
            completion: 0,
        };
        let mut choices = Vec::new();
        let (kind, logprobs) = (self.head.kind, self.logprobs);
        for (index, mut running) in self.running.into_iter().enumerate() {
            let mut choice = Choice {
                index,
                text: running.echo.clone().unwrap_or_default(),
                ..Choice::default()
            };
            let mut scored = Vec::new();
            let reason = loop {
                match running.events.recv().await {
                    Some(Event::Prompt(logprobs)) => scored = logprobs,
                    Some(Event::Token(token)) => choice.push(token),
                    Some(Event::End(end)) => {
                        choice.text.push_str(&end.text);
                        choice.logprobs.extend(end.logprobs);
                        break end.reason;
                    }
                    Some(Event::Failed(refusal)) => return Err(refusal),
                    None => return Err(Refusal::failed("decoding ended unexpectedly")),
                }
            };
            usage.completion += choice.exits.len();
            let first = running.echo.is_some().then(|| running.prompt[0]);
            let scores = Scored { kind, tokenizer };
            let all: Vec<_> = scored.into_iter().chain(choice.logprobs.clone()).collect();
            let logprobs = logprobs.map(|_| scores.json(first, &all, &mut 0));
            choices.push(choice.json(kind, false, logprobs, Some(reason)));
        }
        Ok(self.head.whole(choices, usage))
    }
}

/// A seed for requests without one.
fn rand_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(Instant::now())
}
