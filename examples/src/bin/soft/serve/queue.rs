//! Requests on their way to the decoding thread.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
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
    /// Those of the stop token, which is not part of the text.
    pub logprobs: Option<TokenLogprobs>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    Stop,
    Length,
    /// The time that one request may take.
    Time,
}

/// A bounded queue of answers to decode, and a short one of lenses.
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    capacity: usize,
    /// How long a job may wait.
    time_limit: Duration,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    lenses: VecDeque<LensJob>,
    closed: bool,
}

/// Lenses that may wait.
const MOST_LENSES: usize = 8;

impl State {
    /// Drops jobs whose clients are gone, and ends those that waited too long.
    fn expire(&mut self, time_limit: Duration) {
        self.lenses.retain(|lens| !lens.answer.is_closed());
        self.jobs.retain(|job| {
            let late = job.arrived.elapsed() > time_limit;
            if late {
                let message = format!("no row was free for {} s", time_limit.as_secs());
                let status = StatusCode::SERVICE_UNAVAILABLE;
                let refusal = Refusal::new(status, "time_limit", message);
                let _ = job.events.send(Event::Failed(refusal));
            }
            !late && !job.is_abandoned()
        });
    }

    fn check_open(&self) -> Result<(), Refusal> {
        if !self.closed {
            return Ok(());
        }
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let message = "the server is shutting down";
        Err(Refusal::new(status, "shutting_down", message))
    }
}

impl Queue {
    pub fn new(capacity: usize, time_limit: Duration) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            capacity,
            time_limit,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds all jobs of a request, or none if they do not fit.
    pub fn add(&self, jobs: Vec<Job>) -> Result<(), Refusal> {
        let mut state = self.state();
        state.check_open()?;
        state.expire(self.time_limit);
        let (waiting, new, most) = (state.jobs.len(), jobs.len(), self.capacity);
        if new > most {
            let message = format!("{new} answers in one request: the queue holds {most}");
            return Err(Refusal::bad_request(message));
        }
        if waiting + new > most {
            return Err(full(format!(
                "{waiting} answers wait and {new} more do not fit the queue of {most}"
            )));
        }
        state.jobs.extend(jobs);
        self.changed.notify_all();
        Ok(())
    }

    pub fn add_lens(&self, lens: LensJob) -> Result<(), Refusal> {
        let mut state = self.state();
        state.check_open()?;
        state.expire(self.time_limit);
        if state.lenses.len() >= MOST_LENSES {
            return Err(full(format!("{MOST_LENSES} lenses wait")));
        }
        state.lenses.push_back(lens);
        self.changed.notify_all();
        Ok(())
    }

    /// The next job, if any.
    pub fn next(&self) -> Option<Job> {
        let mut state = self.state();
        state.expire(self.time_limit);
        state.jobs.pop_front()
    }

    pub fn next_lens(&self) -> Option<LensJob> {
        self.state().lenses.pop_front()
    }

    /// Ends jobs that waited too long.
    pub fn expire(&self) {
        self.state().expire(self.time_limit);
    }

    /// Waits for a job or a lens. False once the queue is closed and empty.
    pub fn wait(&self) -> bool {
        let mut state = self.state();
        loop {
            state.expire(self.time_limit);
            if !state.jobs.is_empty() || !state.lenses.is_empty() {
                return true;
            }
            if state.closed {
                return false;
            }
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
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

fn full(what: String) -> Refusal {
    let status = StatusCode::TOO_MANY_REQUESTS;
    Refusal::new(status, "queue_full", what + ": try again later")
}
