//! One row of a batch while it is decoded: its text, its drafts, its end.

use crate::exit::Exit;
use crate::policy::exit_policy::ExitPolicy;
use crate::random::Random;
use crate::sampling::distribution::Distribution;

use super::draft::DraftLimit;

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model gave a stop token.
    StopToken,
    /// The answer has as many tokens as were asked for.
    Length,
    /// The text fills the model's context.
    Context,
    /// The caller ended it.
    Stopped,
}

/// A token that the full model has not checked yet.
pub(crate) struct Drafted {
    pub exit: Exit,
    /// What it was drawn from; none when the best token is all that counts.
    pub from: Option<Distribution>,
    /// How sure the exit was of its best token.
    pub confidence: f64,
}

/// A token that an exit would have drafted, had it been less doubtful.
pub(crate) struct Doubted {
    pub token: u32,
    pub from: Option<Distribution>,
    pub confidence: f64,
}

pub(crate) struct Row {
    /// Prompt, answer, and behind them the drafts.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens of prompt and answer.
    pub committed: usize,
    pub drafts: Vec<Drafted>,
    /// How likely the draft at hand is right.
    pub draft_probability: f64,
    pub doubted: Option<Doubted>,
    /// Most tokens of prompt and answer, and what it means to get there.
    pub limit: (usize, Finish),
    pub finish: Option<Finish>,
    /// Answer tokens handed out.
    pub emitted: usize,
    pub rng: Random,
    pub policy: Box<dyn ExitPolicy>,
    pub length: DraftLimit,
}

impl Row {
    pub fn is_open(&self) -> bool {
        self.finish.is_none()
    }

    /// Most tokens worth drafting: one less than there is room for, since checking adds one.
    pub fn room_for_drafts(&self) -> usize {
        (self.limit.0 - self.committed).saturating_sub(1)
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
        if self.committed == self.limit.0 {
            self.finish = Some(self.limit.1);
        }
        true
    }

    /// Ends the answer with the last token handed out.
    pub fn stop(&mut self) {
        self.committed = self.prompt + self.emitted;
        self.drop_drafts();
        self.finish = Some(Finish::Stopped);
    }

    /// Forgets what was drafted and not accepted.
    pub fn drop_drafts(&mut self) {
        self.tokens.truncate(self.committed);
        self.drafts.clear();
        self.draft_probability = 1.0;
    }
}
