//! The decoder: an iterator over the tokens of the answers, in every mode.
//!
//! A round feeds the newest token of every open row and takes it from exit to exit. States of
//! tokens that exit early wait at their exit; the next token of their row that continues deeper
//! takes them along in one pass, so that the cache is filled exactly, late and cheaply. A token
//! that exits early belongs to the answer (dynamic exits) or is a draft that the full model
//! verifies (self-speculation); with one exit only, decoding is plain. Rows have different lengths,
//! exit at different exits and accept different numbers of drafts; nothing is padded. `conformance`
//! states what holds of the answers.
//!
//! Calls go one way: this file and `round` → `early_exit` and `verify` → `engine` compute, and ask
//! the `strategy` of the mode, which asks the exit policies. Knows no tensors and no text. Sources:
//! Sorted LLaMA (arXiv 2309.08968), section 4.4; deferral, EE-LLM (arXiv 2312.04916) and FREE
//! (arXiv 2310.05424); self-speculation that keeps states, LayerSkip (arXiv 2404.16710).

use super::engine::Engine;
use super::strategy::Strategy;
use crate::decode::row::{Finish, Row};
use crate::decode::settings::DecodeError;
use crate::decode::statistics::Statistics;
use crate::decode::step::Step;
use crate::decode::tuner::Tuner;
use crate::model::decode_model::DecodeModel;

/// Decodes a batch of prompts: an iterator over the tokens of the answers as they become certain.
///
/// Tokens of different rows come interleaved; those of one row in their order. After an error
/// there is nothing more.
pub struct Decoder<'m, M: DecodeModel> {
    pub(super) engine: Engine<'m, M>,
    pub(super) strategy: Box<dyn Strategy>,
    pub(super) started: bool,
    pub(super) failed: bool,
}

impl<M: DecodeModel> Decoder<'_, M> {
    /// The answer of `row` as returned so far.
    pub fn answer(&self, row: usize) -> &[u32] {
        let row = &self.engine.rows[row];
        &row.tokens[row.prompt..][..row.emitted]
    }

    /// Why the answer of `row` ended; none while tokens of it are still to be returned.
    pub fn finish(&self, row: usize) -> Option<Finish> {
        let row = &self.engine.rows[row];
        row.finish
            .filter(|_| row.prompt + row.emitted == row.committed)
    }

    /// Ends the answer of `row`: what was returned stays, nothing more comes.
    ///
    /// Tokens that were certain but not returned yet are dropped; the statistics count what was
    /// computed and keep them.
    pub fn stop(&mut self, row: usize) {
        if self.finish(row).is_none() {
            self.engine.steps.retain(|step| step.row != row);
            self.engine.rows[row].stop();
        }
    }

    /// The cost so far.
    pub fn statistics(&self) -> &Statistics {
        &self.engine.statistics
    }

    /// What automatic mode has learned, to start the next decoder with; none in other modes.
    pub fn into_tuner(self) -> Option<Tuner> {
        self.strategy.into_tuner()
    }

    /// Runs to the end and returns the answers.
    ///
    /// # Errors
    /// The model's own.
    pub fn answers(mut self) -> Result<Vec<Vec<u32>>, DecodeError<M::Error>> {
        self.run()?;
        Ok((0..self.engine.rows.len())
            .map(|row| self.answer(row).to_vec())
            .collect())
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// The model's own.
    pub fn run(&mut self) -> Result<(), DecodeError<M::Error>> {
        self.try_for_each(|step| step.map(|_| ()))
    }
}

impl<M: DecodeModel> Iterator for Decoder<'_, M> {
    type Item = Result<Step, DecodeError<M::Error>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(step) = self.engine.steps.pop_front() {
                self.engine.rows[step.row].emitted += 1;
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
