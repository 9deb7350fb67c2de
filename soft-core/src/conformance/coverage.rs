//! Coverage of the decoding laws: without a rejected draft, for example, rejection is not tested.

use std::collections::BTreeMap;

use crate::decode::statistics::Statistics;
use crate::decode::step::Step;
use crate::exit::Exit;

/// What the decoder did while its laws were checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Answers decoded.
    pub sequences: u64,
    /// Tokens of dynamic exits, by the depth of their exit.
    pub dynamic_by_depth: BTreeMap<usize, u64>,
    /// Answers with two consecutive tokens at the same early exit, which naive code gets wrong.
    pub two_in_a_row: u64,
    /// Drafted tokens that were verified.
    pub checked: u64,
    /// Drafted tokens that were accepted.
    pub accepted: u64,
    /// Answers that ended with a stop token.
    pub stopped_by_token: u64,
    /// Answers that filled the context.
    pub filled_the_context: u64,
    /// Requests that joined a running decoder.
    pub joined: u64,
}

impl Coverage {
    /// Adds the coverage of another check.
    pub fn add(&mut self, other: &Self) {
        self.sequences += other.sequences;
        for (&depth, &tokens) in &other.dynamic_by_depth {
            *self.dynamic_by_depth.entry(depth).or_default() += tokens;
        }
        self.two_in_a_row += other.two_in_a_row;
        self.checked += other.checked;
        self.accepted += other.accepted;
        self.stopped_by_token += other.stopped_by_token;
        self.filled_the_context += other.filled_the_context;
        self.joined += other.joined;
    }

    pub(super) fn saw_drafts(&mut self, statistics: &Statistics) {
        self.checked += statistics.checked;
        self.accepted += statistics.accepted;
    }

    /// Counts an answer of dynamic exits; `full` is the full depth.
    pub(super) fn saw_exits(&mut self, steps: &[Step], full: Exit) {
        for step in steps {
            let tokens = self.dynamic_by_depth.entry(step.exit.depth());
            *tokens.or_default() += 1;
        }
        let early = |pair: &[Step]| pair[0].exit == pair[1].exit && pair[0].exit != full;
        self.two_in_a_row += u64::from(steps.windows(2).any(early));
    }
}
