//! The decoding engine: one loop for every mode. This file is its face; the loop is in `round`.
//!
//! A round feeds the newest token of every open row and takes it from exit to exit. At each exit the rows that
//! leave are parted from those that go on. The states of those that leave wait there and are taken along by the next
//! token of their row that goes deeper, in one pass, so that the cache is filled exactly, late and
//! cheaply. A token that leaves and is not checked later is a dynamic exit; one that is checked is a draft;
//! with one exit only, the decoding is plain. Rows have different lengths, leave at different exits and accept different
//! numbers of drafts; nothing is padded. `conformance` states what holds of the answers.
//!
//! Knows no tensors and no text. Sources: Sorted LLaMA (arXiv 2309.08968), section 4.4; deferral, EE-LLM
//! (arXiv 2312.04916) and FREE (arXiv 2310.05424); self-speculation that keeps states, LayerSkip (arXiv 2404.16710).

use std::collections::VecDeque;
use std::ops::Range;

use super::packed::Packed;
use super::row::Row;
use super::tuner::Cycle;
use crate::decode::row::Finish;
use crate::decode::settings::DecodeError;
use crate::decode::statistics::Statistics;
use crate::decode::tuner::Tuner;
use crate::exit::Exit;
use crate::model::decode_model::DecodeModel;
use crate::sampling::sampler::Sampling;

/// A token of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Index of the prompt.
    pub row: usize,
    /// The token.
    pub token: u32,
    /// The exit that named it: where it left, or where it was drafted.
    pub exit: Exit,
    /// Whether it was drafted and accepted.
    pub accepted: bool,
}

/// Decodes a batch of prompts: an iterator over the tokens of the answers as they become certain.
///
/// Tokens of different rows come interleaved; those of one row in their order. After an error
/// there is nothing more.
pub struct Decoder<'m, M: DecodeModel> {
    pub(super) model: &'m M,
    pub(super) exits: Vec<Exit>,
    pub(super) segments: Vec<Range<usize>>,
    pub(super) kind: Kind,
    pub(super) sampling: Sampling,
    pub(super) stop_tokens: Vec<u32>,
    /// Cut-down heads of the exits that draft.
    pub(super) draft_heads: Vec<M::DraftHead>,
    pub(super) cache: M::Cache,
    pub(super) rows: Vec<Row>,
    /// States that stopped at each exit but the last.
    pub(super) waiting: Vec<Option<Packed<M::Hidden>>>,
    pub(super) steps: VecDeque<Step>,
    pub(super) statistics: Statistics,
    pub(super) started: bool,
    pub(super) failed: bool,
}

/// What becomes of a token at an early exit.
pub(super) enum Kind {
    /// There is none.
    Static,
    /// It belongs to the answer.
    Dynamic,
    /// It is checked later.
    Speculative { needs_probability: bool },
    /// It is checked later, and the tuner says where it leaves.
    Auto { tuner: Tuner, cycle: Cycle },
}

impl<M: DecodeModel> Decoder<'_, M> {
    /// The answer of `row` as handed out so far.
    pub fn answer(&self, row: usize) -> &[u32] {
        let row = &self.rows[row];
        &row.tokens[row.prompt..][..row.emitted]
    }

    /// Why the answer of `row` ended; none while tokens of it are still to be handed out.
    pub fn finish(&self, row: usize) -> Option<Finish> {
        let row = &self.rows[row];
        row.finish
            .filter(|_| row.prompt + row.emitted == row.committed)
    }

    /// Ends the answer of `row`: what was handed out stays, nothing more comes.
    ///
    /// Tokens that were certain but not handed out yet are dropped; the statistics, being of what was
    /// computed, keep them.
    pub fn stop(&mut self, row: usize) {
        if self.finish(row).is_none() {
            self.steps.retain(|step| step.row != row);
            self.rows[row].stop();
        }
    }

    /// What it cost so far.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// What automatic mode has learnt, to start the next decoder with; none in other modes.
    pub fn into_tuner(self) -> Option<Tuner> {
        match self.kind {
            Kind::Auto { tuner, .. } => Some(tuner),
            _ => None,
        }
    }

    /// Runs to the end and returns the answers.
    ///
    /// # Errors
    /// The model's own.
    pub fn answers(mut self) -> Result<Vec<Vec<u32>>, DecodeError<M::Error>> {
        self.run()?;
        Ok((0..self.rows.len())
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
            if let Some(step) = self.steps.pop_front() {
                self.rows[step.row].emitted += 1;
                return Some(Ok(step));
            }
            if self.failed || !self.rows.iter().any(Row::is_open) {
                return None;
            }
            if let Err(error) = self.round() {
                self.failed = true;
                return Some(Err(error));
            }
        }
    }
}
