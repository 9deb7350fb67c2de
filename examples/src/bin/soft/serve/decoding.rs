//! The decoding thread: requests join and leave the running decoder between rounds.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use soft_burn::{Llama, out_of_memory};
use soft_core::Decoder;
use soft_core::decode::{DecodeError, Finish, SharedSettings, Step};
use soft_data::{StopStrings, TextStream, Tokenizer};
use soft_examples::statusln;

use super::costs::Costs;
use super::lens::LensJob;
use super::metrics::Metrics;
use super::queue::{End, EndReason, Event, Job, Queue, Token};
use super::refusal::Refusal;

pub struct DecodingThread<'a> {
    pub model: &'a Llama,
    pub tokenizer: &'a Tokenizer,
    pub shared: SharedSettings,
    pub queue: &'a Queue,
    pub metrics: &'a Metrics,
    pub costs: &'a Costs,
    /// Maximum time of an answer, from the arrival of its request.
    pub time_limit: Duration,
}

/// A request that has a row of the decoder.
struct Active<'a> {
    job: Job,
    stream: TextStream<'a>,
    stops: StopStrings,
    prompt_told: bool,
    /// Number of tokens returned.
    tokens: usize,
    /// When the last of them was.
    last: Instant,
}

/// The requests by row.
type Rows<'a> = Vec<Option<Active<'a>>>;

impl<'a> DecodingThread<'a> {
    /// Decodes until the queue is closed and all answers have ended. If a round fails, its requests
    /// get an error and a new decoder takes the next ones.
    pub fn run(&self) {
        while self.queue.wait() {
            let mut rows: Rows = (0..self.shared.rows).map(|_| None).collect();
            let decoded = catch_unwind(AssertUnwindSafe(|| self.decode(&mut rows)));
            let reason = match decoded {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(panic) => match out_of_memory(panic.as_ref()) {
                    Some(reason) => format!("the device ran out of memory: {reason}"),
                    None => "decoding ended unexpectedly".to_owned(),
                },
            };
            statusln!("decoding failed: {reason}");
            let mut jobs: Vec<Job> = rows.into_iter().flatten().map(|it| it.job).collect();
            if jobs.is_empty() {
                // The decoder could not be created, or a lens failed: without this, what waits would
                // be tried for ever.
                jobs.extend(self.queue.next());
                drop(self.queue.next_lens());
            }
            for job in jobs {
                self.fail(&job, Refusal::failed(reason.clone()));
            }
            self.metrics.lock().active_rows = 0;
        }
    }

    /// Decodes with one decoder until there is nothing to do.
    fn decode(&self, rows: &mut Rows<'a>) -> Result<(), DecodeError<soft_burn::Error>> {
        self.metrics.lock().new_decoder();
        let mut decoder = Decoder::with_free_rows(self.model, self.shared.clone())?;
        let mut lens = None;
        loop {
            lens = lens.or_else(|| self.queue.next_lens());
            lens = lens.and_then(|lens: LensJob| lens.advance(self.model));
            self.queue.expire();
            while decoder.free_rows() > 0
                && let Some(job) = self.queue.next()
            {
                self.join(&mut decoder, rows, job);
            }
            let active = rows.iter().flatten().count();
            self.metrics.lock().active_rows = active;
            if active == 0 {
                self.costs.idle();
                if lens.is_none() && !self.queue.wait() {
                    return Ok(());
                }
                continue;
            }
            let begun = Instant::now();
            decoder.round()?;
            let steps = decoder.take_steps();
            self.account(&decoder, &steps, begun.elapsed());
            self.tell_prompts(&decoder, rows);
            self.tell_steps(&mut decoder, rows, &steps);
            self.end_answers(&mut decoder, rows);
        }
    }

    fn join(&self, decoder: &mut Decoder<'a, Llama>, rows: &mut Rows<'a>, job: Job) {
        let joined = decoder.join(&job.prompt, job.settings.clone());
        let stream = TextStream::after(self.tokenizer, &job.prompt.tokens);
        let (row, stream) = match (joined, stream) {
            (Ok(row), Ok(stream)) => (row, stream),
            (Err(error), _) => return self.fail(&job, refused(&error)),
            (Ok(row), Err(error)) => {
                decoder.leave(row);
                return self.fail(&job, Refusal::failed(error.to_string()));
            }
        };
        self.metrics.lock().prompt_tokens += job.prompt.tokens.len() as u64;
        rows[row] = Some(Active {
            stops: job.stops.clone(),
            stream,
            prompt_told: false,
            tokens: 0,
            last: Instant::now(),
            job,
        });
    }

    fn fail(&self, job: &Job, refusal: Refusal) {
        *self.metrics.lock().answers.entry("failed").or_default() += 1;
        let _ = job.events.send(Event::Failed(refusal));
    }

    fn account(&self, decoder: &Decoder<Llama>, steps: &[Step], time: Duration) {
        let mut figures = self.metrics.lock();
        figures.round.observe(time);
        figures.set_statistics(decoder.statistics());
        for step in steps {
            *figures.tokens.entry(step.exit.depth()).or_default() += 1;
        }
        drop(figures);
        if let Some(deepest) = steps.iter().map(|step| step.exit.depth()).max() {
            self.costs.round(deepest, time);
        }
    }

    /// Sends what is known once a prompt is processed.
    fn tell_prompts(&self, decoder: &Decoder<Llama>, rows: &mut Rows<'a>) {
        for (row, active) in rows.iter_mut().enumerate() {
            let Some(active) = active.as_mut().filter(|active| !active.prompt_told) else {
                continue;
            };
            if decoder.prompt_is_processed(row) {
                active.prompt_told = true;
                let logprobs = decoder.prompt_logprobs(row).to_vec();
                let _ = active.job.events.send(Event::Prompt(logprobs));
            }
        }
    }

    fn tell_steps(&self, decoder: &mut Decoder<'a, Llama>, rows: &mut Rows<'a>, steps: &[Step]) {
        let now = Instant::now();
        for step in steps {
            let Some(active) = &mut rows[step.row] else {
                continue;
            };
            let first = active.tokens == 0;
            let since = if first {
                active.job.arrived
            } else {
                active.last
            };
            let mut figures = self.metrics.lock();
            let histogram = if first {
                &mut figures.first_token
            } else {
                &mut figures.per_token
            };
            histogram.observe(now.duration_since(since));
            drop(figures);
            active.last = now;
            let logprobs = decoder.logprobs(step.row).get(active.tokens).cloned();
            active.tokens += 1;
            let text = match active.stream.push(step.token) {
                Ok(text) => text,
                Err(error) => {
                    self.fail(&active.job, Refusal::failed(error.to_string()));
                    rows[step.row] = None;
                    decoder.leave(step.row);
                    continue;
                }
            };
            let passed = active.stops.push(&text);
            let _ = active.job.events.send(Event::Token(Token {
                text: passed.text,
                token: step.token,
                exit: step.exit.depth(),
                accepted: step.accepted,
                logprobs,
            }));
            if passed.stopped {
                self.end(
                    active,
                    End {
                        text: String::new(),
                        reason: EndReason::Stop,
                        logprobs: None,
                    },
                );
                rows[step.row] = None;
                decoder.leave(step.row);
            }
        }
    }

    /// Ends answers that are complete, of clients that are gone, or that took too long.
    fn end_answers(&self, decoder: &mut Decoder<'a, Llama>, rows: &mut Rows<'a>) {
        for (row, place) in rows.iter_mut().enumerate() {
            let Some(active) = place else { continue };
            let reason = match decoder.finish(row) {
                Some(Finish::StopToken | Finish::Stopped) => Some(EndReason::Stop),
                Some(Finish::Length | Finish::Context) => Some(EndReason::Length),
                None if active.job.arrived.elapsed() > self.time_limit => Some(EndReason::Time),
                None => None,
            };
            if active.job.is_abandoned() {
                *self.metrics.lock().answers.entry("abandoned").or_default() += 1;
            } else if let Some(reason) = reason {
                let held = active.stream.clone().finish().unwrap_or_default();
                let passed = active.stops.push(&held);
                let rest = passed.text + &active.stops.clone().finish();
                let stopped = passed.stopped.then_some(EndReason::Stop);
                let reason = stopped.unwrap_or(reason);
                let logprobs = decoder.stop_logprobs(row).cloned();
                self.end(
                    active,
                    End {
                        text: rest,
                        reason,
                        logprobs,
                    },
                );
            } else {
                continue;
            }
            *place = None;
            decoder.leave(row);
        }
    }

    fn end(&self, active: &Active, end: End) {
        let name = match end.reason {
            EndReason::Stop => "stop",
            EndReason::Length => "length",
            EndReason::Time => "time",
        };
        *self.metrics.lock().answers.entry(name).or_default() += 1;
        let _ = active.job.events.send(Event::End(end));
    }
}

/// The error of a request that cannot join.
fn refused<E: std::error::Error>(error: &DecodeError<E>) -> Refusal {
    match error {
        DecodeError::Model(_) => Refusal::failed(error.to_string()),
        DecodeError::PromptTooLong { .. } => Refusal::new(
            StatusCode::BAD_REQUEST,
            "context_length_exceeded",
            error.to_string(),
        ),
        _ => Refusal::bad_request(error.to_string()),
    }
}
