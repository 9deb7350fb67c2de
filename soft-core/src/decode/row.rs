//! The state of one row of a batch while it is decoded.

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
    /// The caller stopped it.
    Stopped,
}

/// A token that the full model has not verified yet.
pub(crate) struct Drafted {
    pub exit: Exit,
    /// The sampling distribution; `None` for greedy decoding without a penalty.
    pub from: Option<Distribution>,
    /// Probability that the exit assigned to its best token.
    pub confidence: f64,
}

#[derive(Clone, Copy)]
pub(crate) struct Limit {
    pub tokens: usize,
    pub finish: Finish,
}

pub(crate) struct Row {
    /// Prompt, answer and drafts, in this order.
    pub tokens: Vec<u32>,
    /// Number of tokens of the prompt.
    pub prompt: usize,
    /// Number of tokens of prompt and answer.
    pub committed: usize,
    pub drafts: Vec<Drafted>,
    /// Probability that all drafts are accepted.
    pub draft_probability: f64,
    pub limit: Limit,
    pub finish: Option<Finish>,
    /// Number of answer tokens returned to the caller.
    pub emitted: usize,
    pub rng: Random,
}

impl Row {
    pub fn is_open(&self) -> bool {
        self.finish.is_none()
    }

    /// Maximum useful number of drafts: one less than fit, since verification adds a token.
    pub fn room_for_drafts(&self) -> usize {
        (self.limit.tokens - self.committed).saturating_sub(1)
    }

    /// Whether the last draft is a stop token.
    pub fn drafted_a_stop(&self, stop_tokens: &[u32]) -> bool {
        let last = self.tokens.last().filter(|_| !self.drafts.is_empty());
        last.is_some_and(|token| stop_tokens.contains(token))
    }

    /// Appends `token` to the answer unless it is a stop token; returns whether it was appended.
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

    /// Ends the answer after the last token returned.
    pub fn stop(&mut self) {
        self.committed = self.prompt + self.emitted;
        self.drop_drafts();
        self.finish = Some(Finish::Stopped);
    }

    /// Drops drafts that were not accepted.
    pub fn drop_drafts(&mut self) {
        self.tokens.truncate(self.committed);
        self.drafts.clear();
        self.draft_probability = 1.0;
    }
}
