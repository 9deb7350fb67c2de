//! The decoding engine: one loop for every mode.
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
use std::time::{Duration, Instant};

use super::packed::Packed;
use super::row::Row;
use super::tuner::{Cycle, Tuner};
use super::worth::Worth;
use super::{DecodeError, DecodeModel, Finish, MissingStates, Statistics};
use crate::{Exit, KvCache, Past, Sampling};

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
    Dynamic {
        missing: MissingStates,
        /// Per exit, when only checks that pay are made.
        worth: Option<Vec<Worth>>,
    },
    /// It is checked later.
    Speculative { needs_probability: bool },
    /// It is checked later, and the tuner says where it leaves.
    Auto { tuner: Tuner, cycle: Cycle },
}

/// Who does what in a round.
pub(super) struct Turn {
    /// Rows that feed their newest token.
    pub feeds: Vec<bool>,
    /// Rows that run to the full depth unasked.
    pub through: Vec<bool>,
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

    /// Whether tokens of early exits are drafts.
    pub(super) fn checks_later(&self) -> bool {
        matches!(self.kind, Kind::Speculative { .. } | Kind::Auto { .. })
    }

    fn round(&mut self) -> Result<(), DecodeError<M::Error>> {
        let begun = Instant::now();
        let prefill = !self.started;
        self.started = true;
        let turn = self.turn(prefill);
        let drafted = self.rows.iter().map(|row| row.drafts.len()).max();
        let mut at_exit = Vec::with_capacity(self.exits.len());
        let mut going: Vec<bool> = self.rows.iter().map(Row::is_open).collect();
        let mut travelling = self.newest(&turn, prefill)?;
        let mut reached = false;
        let mut next = 0;
        while next < self.exits.len() {
            if next > 0 {
                let waited = self.take_waiting(next - 1, &going)?;
                travelling =
                    Packed::join(self.model, waited, travelling).map_err(DecodeError::Model)?;
            }
            let from = next;
            // Drafts of a row that feeds nothing may wait at a later exit.
            let Some(states) = travelling.take() else {
                next += 1;
                continue;
            };
            let index = self.next_stop(from, &turn, &going);
            next = index + 1;
            let before = states.hidden.clone();
            let range = self.segments[from].start..self.segments[index].end;
            let states = self.run_blocks(range, states, prefill)?;
            if next == self.exits.len() {
                self.answer_at_full_depth(&states, &turn)?;
                reached = true;
                break;
            }
            let leaving = self.leaving(index, &before, &states, &turn)?;
            at_exit.push((index, begun.elapsed()));
            let (stay, go) = states
                .split(self.model, |row| leaving[row])
                .map_err(DecodeError::Model)?;
            for (going, leaving) in going.iter_mut().zip(&leaving) {
                *going &= !leaving;
            }
            self.leave_waiting(index, stay)?;
            travelling = go;
        }
        self.forget_closed_rows()?;
        let round = Round {
            prefill,
            reached,
            drafted: drafted.unwrap_or(0),
            time: begun.elapsed(),
            at_exit,
        };
        self.account(&round);
        Ok(())
    }

    /// Decides who feeds and who must go all the way.
    fn turn(&mut self, prefill: bool) -> Turn {
        let open: Vec<bool> = self.rows.iter().map(Row::is_open).collect();
        let no_drafts = self.rows.iter().all(|row| row.drafts.is_empty());
        let most = match &mut self.kind {
            _ if prefill => Some(0),
            Kind::Static => Some(0),
            Kind::Dynamic { .. } => None,
            Kind::Speculative { .. } => Some(usize::MAX),
            Kind::Auto { tuner, cycle } => {
                if no_drafts {
                    *cycle = tuner.next_cycle();
                }
                match *cycle {
                    Cycle::Plain => Some(0),
                    Cycle::Draft { length, .. } => Some(length),
                }
            }
        };
        let Some(most) = most else {
            let through = vec![false; open.len()];
            return Turn {
                feeds: open,
                through,
            };
        };
        let limit = |row: &Row| most.min(row.room_for_drafts());
        let own_limit = matches!(self.kind, Kind::Speculative { .. });
        let full = |row: &Row| {
            let own = if own_limit {
                row.length.most()
            } else {
                usize::MAX
            };
            row.draft_ended || row.drafts.len() >= limit(row).min(own)
        };
        // A row that drafted its own end has nothing to add to the check.
        let ended = |row: &Row| {
            let last = row.tokens.last().filter(|_| !row.drafts.is_empty());
            last.is_some_and(|token| self.stop_tokens.contains(token))
        };
        // Reading the deep blocks costs the same for one row as for all: rows check together.
        let check = self
            .rows
            .iter()
            .any(|row| row.is_open() && (full(row) || ended(row)));
        let feeds = self.rows.iter().map(|row| row.is_open() && !ended(row));
        Turn {
            feeds: feeds.collect(),
            through: open.iter().map(|open| *open && check).collect(),
        }
    }

    /// The states to start from: embeddings of the prompts, then of each feeding row's newest token.
    fn newest(
        &mut self,
        turn: &Turn,
        prefill: bool,
    ) -> Result<Option<Packed<M::Hidden>>, DecodeError<M::Error>> {
        let (mut tokens, mut rows) = (Vec::new(), Vec::new());
        for (index, row) in self.rows.iter_mut().enumerate() {
            if !turn.feeds[index] {
                continue;
            }
            row.policy.next_token();
            let from = if prefill { 0 } else { row.tokens.len() - 1 };
            tokens.extend_from_slice(&row.tokens[from..]);
            rows.resize(tokens.len(), index);
        }
        if tokens.is_empty() {
            return Ok(None);
        }
        if prefill {
            self.statistics.prompt_tokens += tokens.len() as u64;
            self.statistics.prompts += turn.feeds.iter().filter(|feeds| **feeds).count() as u64;
        }
        let embedded = self
            .model
            .tokens(&[tokens])
            .and_then(|tokens| self.model.embed(&tokens));
        let hidden = embedded.map_err(DecodeError::Model)?;
        Ok(Some(Packed { hidden, rows }))
    }

    /// Index of the first exit from `from` on where somebody may leave or is waiting, or of the full depth.
    fn next_stop(&self, from: usize, turn: &Turn, going: &[bool]) -> usize {
        let mut rows = going.iter().zip(&turn.through);
        let all_through = rows.all(|(going, through)| !going || *through);
        let may_leave = |index: usize| match &self.kind {
            Kind::Auto { cycle, .. } => cycle.drafts_at(index),
            _ => true,
        };
        let stops =
            |&index: &usize| self.waiting[index].is_some() || !all_through && may_leave(index);
        let full = self.exits.len() - 1;
        (from..full).find(stops).unwrap_or(full)
    }

    fn run_blocks(
        &mut self,
        range: Range<usize>,
        states: Packed<M::Hidden>,
        prefill: bool,
    ) -> Result<Packed<M::Hidden>, DecodeError<M::Error>> {
        if !prefill {
            self.statistics.block_passes += range.len() as u64;
            self.statistics.block_states += (range.len() * states.rows.len()) as u64;
        }
        let counts = states.counts(self.rows.len());
        let past = Past {
            cache: &mut self.cache,
            counts: &counts,
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

    fn take_waiting(
        &mut self,
        index: usize,
        going: &[bool],
    ) -> Result<Option<Packed<M::Hidden>>, DecodeError<M::Error>> {
        let Some(waiting) = self.waiting[index].take() else {
            return Ok(None);
        };
        let (taken, left) = waiting
            .split(self.model, |row| going[row])
            .map_err(DecodeError::Model)?;
        self.waiting[index] = left;
        Ok(taken)
    }

    fn leave_waiting(
        &mut self,
        index: usize,
        states: Option<Packed<M::Hidden>>,
    ) -> Result<(), DecodeError<M::Error>> {
        let Some(states) = states else {
            return Ok(());
        };
        let copied = matches!(
            self.kind,
            Kind::Dynamic {
                missing: MissingStates::Copied,
                ..
            }
        );
        if copied {
            let counts = states.counts(self.rows.len());
            let deeper = self.segments[index].end..self.statistics.depth;
            let past = Past {
                cache: &mut self.cache,
                counts: &counts,
            };
            return self
                .model
                .copy_up(&states.hidden, deeper, past)
                .map_err(DecodeError::Model);
        }
        let earlier = self.waiting[index].take();
        self.waiting[index] =
            Packed::join(self.model, earlier, Some(states)).map_err(DecodeError::Model)?;
        Ok(())
    }

    /// Nobody will take along the states of a row that has ended.
    fn forget_closed_rows(&mut self) -> Result<(), DecodeError<M::Error>> {
        let open: Vec<bool> = self.rows.iter().map(Row::is_open).collect();
        for index in 0..self.waiting.len() {
            self.waiting[index] = self.take_waiting(index, &open)?;
        }
        Ok(())
    }

    /// Adds a certain token to the answer of `row`; returns whether the row goes on.
    pub(super) fn commit(&mut self, row: usize, token: u32, exit: Exit, accepted: bool) -> bool {
        if self.rows[row].commit(token, &self.stop_tokens) {
            let by_depth = &mut self.statistics.tokens_by_depth;
            *by_depth.entry(exit.depth()).or_default() += 1;
            self.steps.push_back(Step {
                row,
                token,
                exit,
                accepted,
            });
        }
        self.rows[row].is_open()
    }

    /// Forgets the positions behind the answer of `row`, all but its last token being fed.
    pub(super) fn forget_drafts(&mut self, row: usize) {
        let fed = self.rows[row].committed - 1;
        self.rows[row].drop_drafts();
        self.cache.truncate(row, fed);
    }

    fn account(&mut self, round: &Round) {
        let time = match (round.prefill, round.reached) {
            (true, _) => &mut self.statistics.prefill,
            (false, true) => &mut self.statistics.full,
            (false, false) => &mut self.statistics.draft,
        };
        *time += round.time;
        if round.prefill {
            // What the prompts cost counts apart.
            self.statistics.head_states = 0;
            self.statistics.head_passes = 0;
            return;
        }
        match &mut self.kind {
            Kind::Auto { tuner, cycle } => match *cycle {
                Cycle::Plain => tuner.plain_round(round.time),
                Cycle::Draft { exit, .. } if round.reached => {
                    // At its limit a row may draft nothing: a plain step.
                    match round.drafted {
                        0 => tuner.plain_round(round.time),
                        drafted => tuner.check_round(exit, drafted, round.time),
                    }
                }
                Cycle::Draft { exit, .. } => tuner.draft_round(exit, round.time),
            },
            Kind::Dynamic {
                worth: Some(worth), ..
            } if round.reached => {
                for &(index, elapsed) in &round.at_exit {
                    worth[index].went_on(round.time - elapsed);
                }
            }
            _ => {}
        }
    }
}

/// What is known of a round when it is over.
struct Round {
    prefill: bool,
    reached: bool,
    drafted: usize,
    time: Duration,
    at_exit: Vec<(usize, Duration)>,
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
