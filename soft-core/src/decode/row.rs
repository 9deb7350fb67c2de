//! The state of one row of a batch while it is decoded.

use super::logprobs::{Logprobs, TokenLogprobs};
use super::row_exits::RowExits;
use crate::exit::Exit;
use crate::random::Random;
use crate::sampling::distribution::Distribution;
use crate::sampling::sampler::Sampling;

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
    /// Increases with every request of the decoder.
    pub joined: u64,
    /// Number of tokens of the prompt that were fed.
    pub prompt_fed: usize,
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
    pub sampling: Sampling,
    pub stop_tokens: Vec<u32>,
    pub exits: RowExits,
    /// Index of its strategy.
    pub strategy: usize,
    /// Whether its early exits use draft heads.
    pub draft_head: bool,
    pub logprobs: Option<Logprobs>,
    /// Those of the prompt from its second token on, if requested.
    pub prompt_logprobs: Vec<TokenLogprobs>,
    /// Those of the answer, if requested.
    pub answer_logprobs: Vec<TokenLogprobs>,
    /// Those of the stop token that ended the answer, if requested.
    pub stop_logprobs: Option<TokenLogprobs>,
}

impl Row {
    pub fn is_open(&self) -> bool {
        self.finish.is_none()
    }

    /// Whether a part of the prompt is still to be fed.
    pub fn has_prompt_left(&self) -> bool {
        self.is_open() && self.prompt_fed < self.prompt
    }

    /// Maximum useful number of drafts: one less than fit, since verification adds a token.
    pub fn room_for_drafts(&self) -> usize {
        (self.limit.tokens - self.committed).saturating_sub(1)
    }

    /// Whether the last draft is a stop token.
    pub fn drafted_a_stop(&self) -> bool {
        let last = self.tokens.last().filter(|_| !self.drafts.is_empty());
        last.is_some_and(|token| self.stop_tokens.contains(token))
    }

    /// Whether logits are needed besides the best token.
    pub fn needs_logits(&self) -> bool {
        self.logprobs.is_some() || !self.sampling.needs_only_the_best()
    }

    pub fn scores_prompt(&self) -> bool {
        self.logprobs.is_some_and(|logprobs| logprobs.prompt)
    }

    /// Appends `token` to the answer unless it is a stop token; returns whether it was appended.
    pub fn commit(&mut self, token: u32) -> bool {
        if self.stop_tokens.contains(&token) {
            self.finish = Some(Finish::StopToken);
            return false;
        }
        if self.tokens.get(self.committed) != Some(&token) {
            self.tokens.truncate(self.committed);
            self.tokens.push(token);
        }
        self.committed += 1;
        self.end_at_limit();
        true
    }

    /// Ends an answer that has all its tokens.
    pub fn end_at_limit(&mut self) {
        if self.committed == self.limit.tokens {
            self.finish = Some(self.limit.finish);
        }
    }

    /// Ends the answer after the last token returned.
    pub fn stop(&mut self) {
        self.committed = self.prompt + self.emitted;
        self.drop_drafts();
        self.answer_logprobs.truncate(self.emitted);
        self.finish = Some(Finish::Stopped);
    }

    /// Drops drafts that were not accepted.
    pub fn drop_drafts(&mut self) {
        self.tokens.truncate(self.committed);
        self.drafts.clear();
        self.draft_probability = 1.0;
    }
}
