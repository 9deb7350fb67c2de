//! The time of a token at every exit, from which a latency budget chooses one.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use soft_burn::Llama;
use soft_core::{DecodeSettings, Decoder, Exit, Exits, Mode, Prompt};

use super::refusal::Refusal;

/// Tokens decoded to measure an exit; the first is not counted.
const TOKENS: usize = 8;
/// How much of the load is kept per round.
const MEMORY: f64 = 0.9;

/// Measured costs.
pub struct Costs {
    /// Milliseconds per token of one request alone, by exit.
    alone: Vec<(usize, f64)>,
    /// How many times longer rounds take now, since requests share them.
    load: Mutex<f64>,
}

impl Costs {
    /// Decodes a few tokens at every exit.
    pub fn measure(model: &Llama, exits: &Exits) -> Result<Self> {
        let mut alone = Vec::new();
        for exit in exits.iter() {
            let settings = DecodeSettings::greedy(Mode::Static(exit), TOKENS);
            let mut decoder = Decoder::new(model, &[Prompt::from(vec![0])], settings)?;
            let mut times = Vec::new();
            decoder.next().context("no token")??;
            for _ in 1..TOKENS {
                let begun = Instant::now();
                decoder.next().context("no token")??;
                times.push(begun.elapsed().as_secs_f64() * 1000.0);
            }
            times.sort_by(f64::total_cmp);
            alone.push((exit.depth(), times[times.len() / 2]));
        }
        Ok(Self {
            alone,
            load: Mutex::new(1.0),
        })
    }

    /// Learns from a round whose deepest row has this depth.
    pub fn round(&self, depth: usize, time: Duration) {
        let known = self.alone.iter().find(|(exit, _)| *exit >= depth);
        if let Some((_, alone)) = known.or(self.alone.last()) {
            let now = (time.as_secs_f64() * 1000.0 / alone).max(1.0);
            let mut load = self.load.lock().unwrap_or_else(PoisonError::into_inner);
            *load = MEMORY * *load + (1.0 - MEMORY) * now;
        }
    }

    /// Without requests, the next one is alone.
    pub fn idle(&self) {
        *self.load.lock().unwrap_or_else(PoisonError::into_inner) = 1.0;
    }

    /// Milliseconds per token at every exit under the present load.
    pub fn now(&self) -> Vec<(usize, f64)> {
        let load = *self.load.lock().unwrap_or_else(PoisonError::into_inner);
        let costs = self.alone.iter();
        costs.map(|(exit, ms)| (*exit, ms * load)).collect()
    }

    /// The deepest exit that takes at most `budget` milliseconds per token.
    pub fn deepest_within(&self, budget: f64) -> Result<Exit, Refusal> {
        let costs = self.now();
        let fits = costs.iter().filter(|(_, ms)| *ms <= budget);
        let exit = fits.max_by_key(|(exit, _)| *exit).map(|(exit, _)| *exit);
        let exit = exit.and_then(|depth| Exit::new(depth).ok());
        exit.ok_or_else(|| {
            let costs = costs.iter().map(|(exit, ms)| format!("{exit}: {ms:.1}"));
            let costs: Vec<String> = costs.collect();
            Refusal::invalid(
                "max_ms_per_token",
                format!(
                    "no exit takes at most {budget} ms per token now; by exit: {}",
                    costs.join(", ")
                ),
            )
        })
    }
}
