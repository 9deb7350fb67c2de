//! Figures of the server in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use soft_core::decode::Statistics;

/// Upper bounds of the histograms' buckets, in seconds.
const BOUNDS: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

#[derive(Default)]
pub struct Metrics(Mutex<Figures>);

#[derive(Default)]
pub struct Figures {
    /// Responses by HTTP status.
    pub responses: BTreeMap<u16, u64>,
    /// Tokens returned by depth of exit.
    pub tokens: BTreeMap<usize, u64>,
    pub prompt_tokens: u64,
    /// Answers by how they ended: stop, length, time, abandoned, failed.
    pub answers: BTreeMap<&'static str, u64>,
    /// Drafts of decoders before the running one, whose own are in `running`.
    drafts: Drafts,
    running: Drafts,
    pub active_rows: usize,
    /// From the arrival of a request to its first token.
    pub first_token: Histogram,
    /// Between the rounds that return tokens of an answer, per token.
    pub per_token: Histogram,
    pub round: Histogram,
}

#[derive(Clone, Copy, Default)]
struct Drafts {
    drafted: u64,
    checked: u64,
    accepted: u64,
}

#[derive(Default)]
pub struct Histogram {
    counts: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

impl Histogram {
    pub fn observe(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        for (bound, count) in BOUNDS.iter().zip(&mut self.counts) {
            *count += u64::from(seconds <= *bound);
        }
        self.count += 1;
        self.sum += seconds;
    }

    fn write(&self, out: &mut String, name: &str, help: &str) -> std::fmt::Result {
        writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram")?;
        for (bound, count) in BOUNDS.iter().zip(&self.counts) {
            writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {count}")?;
        }
        writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {}", self.count)?;
        writeln!(out, "{name}_sum {}\n{name}_count {}", self.sum, self.count)
    }
}

impl Figures {
    /// Takes over the drafts of the running decoder.
    pub fn set_statistics(&mut self, statistics: &Statistics) {
        self.running = Drafts {
            drafted: statistics.drafted,
            checked: statistics.checked,
            accepted: statistics.accepted,
        };
    }

    /// A new decoder begins to count from 0.
    pub fn new_decoder(&mut self) {
        self.drafts = self.all_drafts();
        self.running = Drafts::default();
    }

    fn all_drafts(&self) -> Drafts {
        let (before, now) = (self.drafts, self.running);
        Drafts {
            drafted: before.drafted + now.drafted,
            checked: before.checked + now.checked,
            accepted: before.accepted + now.accepted,
        }
    }

    fn text(&self, waiting: usize) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        let mut figure = |name: &str, kind: &str, help: &str, values: Vec<(String, u64)>| {
            writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
            values
                .iter()
                .try_for_each(|(label, value)| writeln!(out, "{name}{label} {value}"))
        };
        let one = |value: u64| vec![(String::new(), value)];
        let labels = |label: &str, key: String| format!("{{{label}=\"{key}\"}}");
        let by = |label: &'static str| move |key: String, value: u64| (labels(label, key), value);
        let responses = self.responses.iter();
        let responses = responses.map(|(key, n)| by("status")(key.to_string(), *n));
        let tokens = self
            .tokens
            .iter()
            .map(|(key, n)| by("exit")(key.to_string(), *n));
        let answers = self.answers.iter();
        let answers = answers.map(|(key, n)| by("end")((*key).to_owned(), *n));
        let drafts = self.all_drafts();
        figure(
            "soft_responses_total",
            "counter",
            "Responses",
            responses.collect(),
        )?;
        figure(
            "soft_answers_total",
            "counter",
            "Answers",
            answers.collect(),
        )?;
        figure(
            "soft_prompt_tokens_total",
            "counter",
            "Tokens of prompts",
            one(self.prompt_tokens),
        )?;
        figure(
            "soft_tokens_total",
            "counter",
            "Tokens generated, by exit",
            tokens.collect(),
        )?;
        figure(
            "soft_drafted_total",
            "counter",
            "Tokens drafted",
            one(drafts.drafted),
        )?;
        figure(
            "soft_verified_total",
            "counter",
            "Drafts verified",
            one(drafts.checked),
        )?;
        figure(
            "soft_accepted_total",
            "counter",
            "Drafts accepted",
            one(drafts.accepted),
        )?;
        figure(
            "soft_queue_length",
            "gauge",
            "Answers that wait",
            one(waiting as u64),
        )?;
        figure(
            "soft_active_rows",
            "gauge",
            "Answers being decoded",
            one(self.active_rows as u64),
        )?;
        let histograms = [
            (
                &self.first_token,
                "soft_first_token_seconds",
                "Arrival to first token",
            ),
            (
                &self.per_token,
                "soft_token_seconds",
                "Time per later token of an answer",
            ),
            (
                &self.round,
                "soft_round_seconds",
                "Time of a decoding round",
            ),
        ];
        for (histogram, name, help) in histograms {
            histogram.write(&mut out, name, help)?;
        }
        Ok(out)
    }
}

impl Metrics {
    pub fn lock(&self) -> MutexGuard<'_, Figures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The figures, with this number of jobs in the queue.
    pub fn text(&self, waiting: usize) -> String {
        self.lock().text(waiting).unwrap_or_default()
    }
}
