//! The state of a decoder and its operations: embed, run blocks, defer states, commit tokens.
//!
//! Independent of modes: a [`Strategy`](super::strategy::Strategy) decides which tokens exit early.
//! It is called by the rounds in `round`, `early_exit` and `verify`.

use std::collections::VecDeque;
use std::ops::Range;

use super::head::HeadOutput;
use super::logprobs::TokenLogprobs;
use super::packed::Packed;
use super::round::Turn;
use super::row::Row;
use crate::decode::settings::DecodeError;
use crate::decode::statistics::Statistics;
use crate::decode::step::Step;
use crate::exit::Exit;
use crate::model::cache::KvCache;
use crate::model::decode_model::DecodeModel;
use crate::model::nested::Past;
use crate::policy::probe::ExitProbes;

/// Restricted heads and their tokens, which are the same for all exits that draft.
pub(super) struct DraftHeads<H> {
    /// Sorted.
    pub tokens: Vec<u32>,
    /// One per early exit.
    pub heads: Vec<H>,
}

pub(super) struct Engine<'m, M: DecodeModel> {
    pub model: &'m M,
    /// The exits that rows may use.
    pub exits: Vec<Exit>,
    pub segments: Vec<Range<usize>>,
    pub draft_heads: Option<DraftHeads<M::DraftHead>>,
    pub probes: Option<ExitProbes>,
    pub cache: KvCache<M::KvStore>,
    pub rows: Vec<Row>,
    /// Rows that no request has.
    pub free: Vec<bool>,
    /// Maximum number of tokens of a prompt that are processed in one round.
    pub prompt_chunk: usize,
    /// Rows whose prompts were processed before this round. Costs per token exclude the others.
    pub counted: Vec<bool>,
    /// Deferred states at each exit except the last.
    pub waiting: Vec<Option<Packed<M::Hidden>>>,
    /// For each exit with its own block, states that this block has not processed yet, in the order
    /// in which they came.
    pub passed: Vec<Vec<Packed<M::Hidden>>>,
    pub steps: VecDeque<Step>,
    pub statistics: Statistics,
}

impl<M: DecodeModel> Engine<'_, M> {
    /// The exit of this row at which tokens are final.
    pub fn last_exit(&self, row: usize) -> Exit {
        self.exits[self.rows[row].exits.last()]
    }

    pub fn open_rows(&self) -> Vec<bool> {
        self.rows.iter().map(Row::is_open).collect()
    }

    /// Embeds the tokens that rows feed: parts of prompts, or the newest token.
    pub fn embed(
        &mut self,
        turn: &Turn,
    ) -> Result<Option<Packed<M::Hidden>>, DecodeError<M::Error>> {
        let (mut tokens, mut rows) = (Vec::new(), Vec::new());
        for (index, row) in self.rows.iter_mut().enumerate() {
            let feeds = turn.feeds[index];
            let from = if self.counted[index] {
                row.tokens.len() - usize::from(feeds > 0)
            } else {
                self.statistics.prompt_tokens += feeds as u64;
                self.statistics.prompts += u64::from(feeds > 0 && row.prompt_fed == 0);
                row.prompt_fed += feeds;
                row.prompt_fed - feeds
            };
            tokens.extend(row.tokens[from..].iter().take(feeds));
            rows.resize(tokens.len(), index);
        }
        if tokens.is_empty() {
            return Ok(None);
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
        let counted = self.counted_states(&states.rows);
        self.statistics.block_passes += if counted > 0 { blocks } else { 0 };
        self.statistics.block_states += blocks * counted;
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

    /// Number of states, given their rows, that count for the costs per token.
    pub fn counted_states(&self, rows: &[usize]) -> u64 {
        rows.iter().filter(|row| self.counted[**row]).count() as u64
    }

    /// Number of positions that new states attend to in a block, including themselves.
    fn attended(&self, block: usize, query_lens: &[usize]) -> u64 {
        let rows = query_lens.iter().enumerate();
        let of_row = rows
            .filter(|(row, _)| self.counted[*row])
            .map(|(row, &new)| {
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

    /// Adds a final token, generated by a head with this output, to the answer; returns whether its
    /// row continues.
    pub fn commit(&mut self, step: Step, output: &HeadOutput) -> bool {
        let row = &mut self.rows[step.row];
        self.statistics.generated += u64::from(row.committed > row.prompt);
        let logprobs = row.logprobs.zip(output.logits.as_ref());
        let logprobs =
            logprobs.map(|(kept, logits)| TokenLogprobs::of(step.token, logits, kept.top));
        if !row.commit(step.token) {
            row.stop_logprobs = logprobs;
        } else {
            row.answer_logprobs.extend(logprobs);
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
