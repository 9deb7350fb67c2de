//! Requests on their way to the decoding thread.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use soft_core::decode::TokenLogprobs;
use soft_core::{DecodeSettings, Prompt};
use soft_data::StopStrings;
use tokio::sync::mpsc::UnboundedSender;

use super::lens::LensJob;
use super::refusal::Refusal;

/// One answer to decode.
pub struct Job {
    pub prompt: Prompt,
    pub settings: DecodeSettings,
    pub stops: StopStrings,
    pub events: UnboundedSender<Event>,
    pub arrived: Instant,
}

impl Job {
    /// Whether the client is gone.
    pub fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }
}

/// What the decoding thread is asked for.
pub enum Work {
    Answer(Box<Job>),
    Lens(Box<LensJob>),
}

impl Work {
    /// Whether the client is gone.
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Answer(job) => job.is_abandoned(),
            Self::Lens(lens) => lens.answer.is_closed(),
        }
    }
}

/// What happens to a job, in this order: the prompt, tokens, the end.
#[derive(Debug)]
pub enum Event {
    /// The prompt was processed.
    Prompt(Vec<TokenLogprobs>),
    Token(Token),
    End(End),
    Failed(Refusal),
}

#[derive(Debug)]
pub struct Token {
    /// The text that is now certain, often none or that of several tokens.
    pub text: String,
    pub token: u32,
    /// Depth of the exit that generated or drafted it.
    pub exit: usize,
    /// Whether it was drafted and accepted.
    pub accepted: bool,
    pub logprobs: Option<TokenLogprobs>,
}

#[derive(Debug)]
pub struct End {
    /// The text that was held back.
    pub text: String,
    pub reason: EndReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    Stop,
    Length,
    /// The time that one request may take.
    Time,
}

/// A bounded queue.
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    capacity: usize,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Work>,
    closed: bool,
}

impl Queue {
    pub fn new(capacity: usize) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            capacity,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds all the work of a request, or none if it does not fit.
    pub fn add(&self, jobs: Vec<Work>) -> Result<(), Refusal> {
        use axum::http::StatusCode;
        let mut state = self.state();
        state.jobs.retain(|job| !job.is_abandoned());
        if state.closed {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            return Err(Refusal::new(
                status,
                "shutting_down",
                "the server is shutting down",
            ));
        }
        let (waiting, new) = (state.jobs.len(), jobs.len());
        if new > self.capacity {
            return Err(Refusal::bad_request(format!(
                "{new} answers in one request: the queue holds {}",
                self.capacity
            )));
        }
        if waiting + new > self.capacity {
            let message = format!(
                "{waiting} answers wait and {new} more do not fit the queue of {}: try again later",
                self.capacity
            );
            return Err(Refusal::new(
                StatusCode::TOO_MANY_REQUESTS,
                "queue_full",
                message,
            ));
        }
        state.jobs.extend(jobs);
        self.changed.notify_all();
        Ok(())
    }

    /// The next job, if any.
    pub fn next(&self) -> Option<Work> {
        let mut state = self.state();
        state.jobs.retain(|job| !job.is_abandoned());
        state.jobs.pop_front()
    }

    /// Waits for a job. `None` once the queue is closed and empty.
    pub fn wait(&self) -> Option<Work> {
        let mut state = self.state();
        loop {
            state.jobs.retain(|job| !job.is_abandoned());
            match state.jobs.pop_front() {
                Some(job) => return Some(job),
                None if state.closed => return None,
                None => {
                    let waited = self.changed.wait(state);
                    state = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Refuses new jobs; those that wait are still taken.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    pub fn len(&self) -> usize {
        self.state().jobs.len()
    }
}
