//! One row of a batch while it is decoded: its text, its drafts, its end.

use crate::exit::Exit;
use crate::random::Random;
use crate::sampling::distribution::Distribution;

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model generated a stop token.
    StopToken,
    /// The answer has the requested number of tokens.
    Length,
    /// The text fills the model's context.
    Context,
    /// The caller ended it.
    Stopped,
}

/// A token that the full model has not verified yet.
pub(crate) struct Drafted {
    pub exit: Exit,
    /// What it was sampled from; none for greedy decoding without a penalty.
    pub from: Option<Distribution>,
    /// Probability that the exit gave to its best token.
    pub confidence: f64,
}

/// Most tokens of a text, and why it ends there.
#[derive(Clone, Copy)]
pub(crate) struct Limit {
    pub tokens: usize,
    pub finish: Finish,
}

pub(crate) struct Row {
    /// Prompt, answer, and behind them the drafts.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens of prompt and answer.
    pub committed: usize,
    pub drafts: Vec<Drafted>,
    /// Probability that all drafts are accepted.
    pub draft_probability: f64,
    pub limit: Limit,
    pub finish: Option<Finish>,
    /// Answer tokens returned to the caller.
    pub emitted: usize,
    pub rng: Random,
}

impl Row {
    pub fn is_open(&self) -> bool {
        self.finish.is_none()
    }

    /// Most tokens worth drafting: one less than there is room for, since verification adds one.
    pub fn room_for_drafts(&self) -> usize {
        (self.limit.tokens - self.committed).saturating_sub(1)
    }

    /// Whether the last draft is a stop token.
    pub fn drafted_a_stop(&self, stop_tokens: &[u32]) -> bool {
        let last = self.tokens.last().filter(|_| !self.drafts.is_empty());
        last.is_some_and(|token| stop_tokens.contains(token))
    }

    /// Takes `token` as the next of the answer; returns whether it belongs to it.
    pub fn commit(&mut self, token: u32, stop_tokens: &[u32]) -> bool {
        if stop_tokens.contains(&token) {
            self.finish = Some(Finish::StopToken);
            return false;
        }
        if self.tokens.get(self.committed) != Some(&token) {
            self.tokens.truncate(self.committed);
            self.tokens.push(token);
        }
        self.committed += 1;
        if self.committed == self.limit.tokens {
            self.finish = Some(self.limit.finish);
        }
        true
    }

    /// Ends the answer with the last token returned.
    pub fn stop(&mut self) {
        self.committed = self.prompt + self.emitted;
        self.drop_drafts();
        self.finish = Some(Finish::Stopped);
    }

    /// Forgets drafts that were not accepted.
    pub fn drop_drafts(&mut self) {
        self.tokens.truncate(self.committed);
        self.drafts.clear();
        self.draft_probability = 1.0;
    }
}
