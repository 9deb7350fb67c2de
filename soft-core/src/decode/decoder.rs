//! The decoder: an iterator over the tokens of the answers, in every mode.
//!
//! A round feeds the newest token of every open row and runs it from exit to exit. States of tokens
//! that exit early are deferred at their exit. They run through deeper blocks in one pass with the
//! next token of their row that continues, which fills the cache exactly and cheaply. A token that
//! exits early is part of the answer (dynamic exits) or a draft that the full model verifies
//! (self-speculation); with a single exit, decoding is plain. Rows may differ in mode, exits, length
//! and accepted drafts; nothing is padded. Between rounds, requests may join and leave (continuous
//! batching, Yu et al., Orca, OSDI 2022). `conformance` states the properties of the answers.
//!
//! Calls go in one direction: this file and `round` call `early_exit` and `verify`, which compute
//! with `engine` and ask the rows' `strategies`, which ask the exit policies. Independent of
//! tensors and text. Sources: Sorted LLaMA (arXiv 2309.08968), section 4.4; deferral, EE-LLM (arXiv
//! 2312.04916) and FREE (arXiv 2310.05424); self-speculation that keeps states, LayerSkip (arXiv
//! 2404.16710).

use super::engine::Engine;
use super::logprobs::TokenLogprobs;
use super::strategies::Strategies;
use crate::decode::row::{Finish, Row};
use crate::decode::settings::DecodeError;
use crate::decode::statistics::Statistics;
use crate::decode::step::Step;
use crate::decode::tuner::Tuner;
use crate::model::decode_model::DecodeModel;

/// Decodes prompts: an iterator over the tokens of the answers as they become final.
///
/// Tokens of different rows interleave; those of one row are in order. An error ends the iterator.
pub struct Decoder<'m, M: DecodeModel> {
    pub(super) engine: Engine<'m, M>,
    pub(super) strategies: Strategies,
    /// Maximum number of positions of a row.
    pub(super) context: usize,
    /// Number of requests that have joined.
    pub(super) joined: u64,
    pub(super) failed: bool,
}

impl<M: DecodeModel> Decoder<'_, M> {
    /// The tokens of `row` returned so far.
    pub fn answer(&self, row: usize) -> &[u32] {
        let row = &self.engine.rows[row];
        &row.tokens[row.prompt..][..row.emitted]
    }

    /// The log-probabilities of the tokens of `row` returned so far, if its settings keep them.
    pub fn logprobs(&self, row: usize) -> &[TokenLogprobs] {
        let row = &self.engine.rows[row];
        &row.answer_logprobs[..row.emitted.min(row.answer_logprobs.len())]
    }

    /// Those of the stop token that ended the answer of `row`.
    pub fn stop_logprobs(&self, row: usize) -> Option<&TokenLogprobs> {
        self.engine.rows[row].stop_logprobs.as_ref()
    }

    /// The log-probabilities of the tokens of the prompt of `row` processed so far, from the second
    /// token on, if its settings keep them.
    pub fn prompt_logprobs(&self, row: usize) -> &[TokenLogprobs] {
        &self.engine.rows[row].prompt_logprobs
    }

    /// Whether the whole prompt of `row` was processed.
    pub fn prompt_is_processed(&self, row: usize) -> bool {
        let row = &self.engine.rows[row];
        row.prompt_fed == row.prompt
    }

    /// Why the answer of `row` ended; `None` while tokens of it are still to be returned.
    pub fn finish(&self, row: usize) -> Option<Finish> {
        let row = &self.engine.rows[row];
        row.finish
            .filter(|_| row.prompt + row.emitted == row.committed)
    }

    /// Ends the answer of `row`. Tokens already returned are kept.
    ///
    /// Final tokens that were not returned yet are dropped; the statistics still count them.
    pub fn stop(&mut self, row: usize) {
        if self.finish(row).is_none() {
            self.engine.steps.retain(|step| step.row != row);
            self.engine.rows[row].stop();
        }
    }

    /// Returns the tokens that became final in the rounds so far and were not returned yet.
    pub fn take_steps(&mut self) -> Vec<Step> {
        let mut steps = Vec::with_capacity(self.engine.steps.len());
        while let Some(step) = self.next_step() {
            steps.push(step);
        }
        steps
    }

    fn next_step(&mut self) -> Option<Step> {
        let step = self.engine.steps.pop_front()?;
        self.engine.rows[step.row].emitted += 1;
        Some(step)
    }

    /// The statistics so far.
    pub fn statistics(&self) -> &Statistics {
        &self.engine.statistics
    }

    /// What automatic mode has learned, for the next decoder; `None` in other modes.
    pub fn into_tuner(self) -> Option<Tuner> {
        self.strategies.into_tuner()
    }

    /// Runs to the end and returns the answers.
    ///
    /// # Errors
    /// Errors of the model.
    pub fn answers(mut self) -> Result<Vec<Vec<u32>>, DecodeError<M::Error>> {
        self.run()?;
        Ok((0..self.engine.rows.len())
            .map(|row| self.answer(row).to_vec())
            .collect())
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// Errors of the model.
    pub fn run(&mut self) -> Result<(), DecodeError<M::Error>> {
        self.try_for_each(|step| step.map(|_| ()))
    }
}

impl<M: DecodeModel> Iterator for Decoder<'_, M> {
    type Item = Result<Step, DecodeError<M::Error>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(step) = self.next_step() {
                return Some(Ok(step));
            }
            if self.failed || !self.engine.rows.iter().any(Row::is_open) {
                return None;
            }
            if let Err(error) = self.round() {
                self.failed = true;
                return Some(Err(error));
            }
        }
    }
}
