//! The state of a decoder and its operations: embed, run blocks, defer states, commit tokens.
//!
//! Independent of modes: a [`Strategy`](super::strategy::Strategy) decides which tokens exit early.
//! It is called by the rounds in `round`, `early_exit` and `verify`.

use std::collections::VecDeque;
use std::ops::Range;

use super::packed::Packed;
use super::row::Row;
use crate::decode::settings::DecodeError;
use crate::decode::statistics::Statistics;
use crate::decode::step::Step;
use crate::exit::Exit;
use crate::model::cache::KvCache;
use crate::model::decode_model::DecodeModel;
use crate::model::nested::Past;
use crate::policy::probe::ExitProbes;
use crate::sampling::sampler::Sampling;

/// Restricted heads and their tokens, which are the same for all exits that draft.
pub(super) struct DraftHeads<H> {
    pub tokens: Vec<u32>,
    /// One per early exit.
    pub heads: Vec<H>,
}

pub(super) struct Engine<'m, M: DecodeModel> {
    pub model: &'m M,
    pub exits: Vec<Exit>,
    pub segments: Vec<Range<usize>>,
    pub sampling: Sampling,
    pub stop_tokens: Vec<u32>,
    pub draft_heads: Option<DraftHeads<M::DraftHead>>,
    pub probes: Option<ExitProbes>,
    pub cache: KvCache<M::KvStore>,
    pub rows: Vec<Row>,
    /// Deferred states at each exit except the last.
    pub waiting: Vec<Option<Packed<M::Hidden>>>,
    /// For each exit with its own block, states that this block has not processed yet, in the order
    /// in which they came.
    pub passed: Vec<Vec<Packed<M::Hidden>>>,
    pub steps: VecDeque<Step>,
    pub statistics: Statistics,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Input {
    /// Whole prompts.
    Prompts,
    /// The newest token of each row.
    Newest,
}

impl<M: DecodeModel> Engine<'_, M> {
    /// The final exit: the full model, or the sub-model of static mode.
    pub fn last_exit(&self) -> Exit {
        self.exits[self.exits.len() - 1]
    }

    pub fn open_rows(&self) -> Vec<bool> {
        self.rows.iter().map(Row::is_open).collect()
    }

    /// Embeds the input of the rows marked in `feeds`.
    pub fn embed(
        &mut self,
        feeds: &[bool],
        input: Input,
    ) -> Result<Option<Packed<M::Hidden>>, DecodeError<M::Error>> {
        let (mut tokens, mut rows) = (Vec::new(), Vec::new());
        let feeding = self.rows.iter().enumerate().filter(|(row, _)| feeds[*row]);
        for (index, row) in feeding {
            let from = match input {
                Input::Prompts => 0,
                Input::Newest => row.tokens.len() - 1,
            };
            tokens.extend_from_slice(&row.tokens[from..]);
            rows.resize(tokens.len(), index);
        }
        if tokens.is_empty() {
            return Ok(None);
        }
        if input == Input::Prompts {
            self.statistics.prompt_tokens += tokens.len() as u64;
            self.statistics.prompts += feeds.iter().filter(|feeds| **feeds).count() as u64;
        }
        let embedded = self
            .model
            .tokens(&[tokens])
            .and_then(|tokens| self.model.embed(&tokens));
        let hidden = embedded.map_err(DecodeError::Model)?;
        Ok(Some(Packed { hidden, rows }))
    }

    /// Runs packed states through blocks and the cache.
    pub fn run_blocks(
        &mut self,
        range: Range<usize>,
        states: Packed<M::Hidden>,
    ) -> Result<Packed<M::Hidden>, DecodeError<M::Error>> {
        let query_lens = states.counts(self.rows.len());
        let blocks = range.len() as u64;
        self.statistics.block_passes += blocks;
        self.statistics.block_states += blocks * states.rows.len() as u64;
        self.statistics.attended += blocks * self.attended(range.start, &query_lens);
        let past = Past {
            cache: &mut self.cache,
            query_lens: &query_lens,
        };
        let hidden = self
            .model
            .blocks(states.hidden, range, Some(past))
            .map_err(DecodeError::Model)?;
        Ok(Packed {
            hidden,
            rows: states.rows,
        })
    }

    /// Number of positions that new states attend to in a block, including themselves.
    fn attended(&self, block: usize, query_lens: &[usize]) -> u64 {
        let rows = query_lens.iter().enumerate();
        let of_row = rows.map(|(row, &new)| {
            let earlier = self.cache.lengths().filled(block, row);
            new * earlier + new * (new + 1) / 2
        });
        of_row.sum::<usize>() as u64
    }

    /// Takes the deferred states of the rows marked in `rows` from the exit of this index.
    pub fn take_waiting(
        &mut self,
        index: usize,
        rows: &[bool],
    ) -> Result<Option<Packed<M::Hidden>>, DecodeError<M::Error>> {
        let Some(waiting) = self.waiting[index].take() else {
            return Ok(None);
        };
        let (taken, others) = waiting
            .split(self.model, |row| rows[row])
            .map_err(DecodeError::Model)?;
        self.waiting[index] = others;
        Ok(taken)
    }

    /// Defers states at the exit of this index, after those deferred earlier.
    pub fn defer(
        &mut self,
        index: usize,
        states: Option<Packed<M::Hidden>>,
    ) -> Result<(), DecodeError<M::Error>> {
        let earlier = self.waiting[index].take();
        self.waiting[index] =
            Packed::merge(self.model, earlier, states).map_err(DecodeError::Model)?;
        Ok(())
    }

    /// Drops deferred states of rows that have ended.
    pub fn drop_closed_rows(&mut self) -> Result<(), DecodeError<M::Error>> {
        let open = self.open_rows();
        for index in 0..self.waiting.len() {
            self.waiting[index] = self.take_waiting(index, &open)?;
        }
        self.drop_passed(|row| open[row])
    }

    /// Adds a final token to the answer; returns whether its row continues.
    pub fn commit(&mut self, step: Step) -> bool {
        self.statistics.generated += 1;
        let row = &mut self.rows[step.row];
        if row.commit(step.token, &self.stop_tokens) {
            let by_depth = &mut self.statistics.tokens_by_depth;
            *by_depth.entry(step.exit.depth()).or_default() += 1;
            self.steps.push_back(step);
        }
        self.rows[step.row].is_open()
    }

    /// Removes positions after the answer of `row`, whose last token is not fed yet.
    pub fn forget_drafts(&mut self, row: usize) -> Result<(), DecodeError<M::Error>> {
        let fed = self.rows[row].committed - 1;
        self.rows[row].drop_drafts();
        self.cache.truncate(row, fed);
        self.truncate_passed(row, fed)
    }
}
