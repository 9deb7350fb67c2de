//! A response as server-sent events.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use serde_json::json;
use soft_data::Tokenizer;

use super::answers::Answers;
use super::queue::{EndReason, Event};
use super::refusal::Refusal;
use super::response::{Choice, Kind, Scored, Usage};

/// A response as server-sent events.
pub struct Streamed {
    answers: Answers,
    tokenizer: Arc<Tokenizer>,
    /// The first event of the first answer, until it is sent.
    first: Option<Event>,
    /// Answers that have not ended.
    open: Vec<usize>,
    /// Where among these to look first, so that none waits for the others.
    turn: usize,
    /// Characters sent of every answer.
    offsets: Vec<usize>,
    usage: Usage,
    /// What is to be sent before the next event.
    ready: VecDeque<String>,
    done: bool,
}

impl Streamed {
    pub fn new(answers: Answers, first: Option<Event>, tokenizer: Arc<Tokenizer>) -> Self {
        let usage = Usage {
            prompt: answers.prompt_tokens,
            completion: 0,
        };
        let mut streamed = Self {
            open: (0..answers.running.len()).collect(),
            turn: 0,
            offsets: vec![0; answers.running.len()],
            answers,
            tokenizer,
            first,
            usage,
            ready: VecDeque::new(),
            done: false,
        };
        for index in 0..streamed.answers.running.len() {
            streamed.begin(index);
        }
        streamed
    }

    /// Sends the role, or the prompt.
    fn begin(&mut self, index: usize) {
        let head = &self.answers.head;
        let text = self.answers.running[index].echo.clone();
        let mut choice = Choice {
            index,
            text: text.clone().unwrap_or_default(),
            ..Choice::default()
        }
        .json(head.kind, true, None, None);
        match head.kind {
            Kind::Chat => choice["delta"]["role"] = json!("assistant"),
            Kind::Completion if text.is_none() => return,
            Kind::Completion => {}
        }
        self.ready.push_back(head.chunk(choice).to_string());
    }

    /// The data of the next event.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            if self.done {
                return None;
            }
            if self.open.is_empty() {
                if self.answers.includes_usage {
                    let usage = self.answers.head.usage_chunk(self.usage);
                    self.ready.push_back(usage.to_string());
                }
                self.ready.push_back("[DONE]".to_owned());
                self.done = true;
                continue;
            }
            let (index, event) = self.event().await;
            self.take(index, event);
        }
    }

    /// The next event of any open answer.
    async fn event(&mut self) -> (usize, Option<Event>) {
        if let Some(first) = self.first.take() {
            return (0, Some(first));
        }
        self.turn += 1;
        let (open, turn) = (&self.open, self.turn);
        let running = &mut self.answers.running;
        poll_fn(|context| {
            for place in 0..open.len() {
                let index = open[(place + turn) % open.len()];
                if let Poll::Ready(event) = running[index].events.poll_recv(context) {
                    return Poll::Ready((index, event));
                }
            }
            Poll::Pending
        })
        .await
    }

    fn take(&mut self, index: usize, event: Option<Event>) {
        let kind = self.answers.head.kind;
        let mut choice = Choice {
            index,
            ..Choice::default()
        };
        let (mut scored, mut first) = (Vec::new(), None);
        let mut reason: Option<EndReason> = None;
        match event {
            Some(Event::Prompt(logprobs)) => {
                let running = &self.answers.running[index];
                let echoes = running.echo.is_some() && self.answers.logprobs.is_some();
                if !echoes {
                    return;
                }
                first = Some(running.prompt[0]);
                scored = logprobs;
            }
            Some(Event::Token(token)) => {
                self.usage.completion += 1;
                scored.extend(token.logprobs.clone());
                choice.push(token);
            }
            Some(Event::End(end)) => {
                choice.text = end.text;
                scored.extend(end.logprobs);
                reason = Some(end.reason);
                self.open.retain(|open| *open != index);
            }
            Some(Event::Failed(refusal)) => return self.fail(&refusal),
            None => return self.fail(&Refusal::failed("decoding ended unexpectedly")),
        }
        let scores = Scored {
            kind,
            tokenizer: &self.tokenizer,
        };
        let any = first.is_some() || !scored.is_empty();
        let logprobs = self.answers.logprobs.filter(|_| any);
        let logprobs = logprobs.map(|_| scores.json(first, &scored, &mut self.offsets[index]));
        let choice = choice.json(kind, true, logprobs, reason);
        self.ready
            .push_back(self.answers.head.chunk(choice).to_string());
    }

    /// An error after the response has begun.
    fn fail(&mut self, refusal: &Refusal) {
        self.ready.push_back(refusal.json().to_string());
        self.open.clear();
        self.done = true;
    }
}
