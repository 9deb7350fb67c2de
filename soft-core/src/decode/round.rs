//! One round of decoding: who feeds, who leaves where, what waits and what goes deeper.
//!
//! The loop itself; what a token's leaving or its check means is in `leave` and `check`.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::decoder::Kind;
use super::packed::Packed;
use super::row::Row;
use super::tuner::{CheckRound, Cycle};
use crate::decode::decoder::{Decoder, Step};
use crate::decode::settings::DecodeError;
use crate::exit::Exit;
use crate::model::decode_model::DecodeModel;
use crate::model::nested::{KvCache, Past};

/// Who does what in a round.
pub(super) struct Turn {
    /// Rows that feed their newest token.
    pub feeds: Vec<bool>,
    /// Rows that run to the full depth unasked.
    pub through: Vec<bool>,
    /// Time that went into asking about tokens that were then too doubtful to be drafted.
    pub asking: Duration,
}

/// What is known of a round when it is over.
struct Round {
    prefill: bool,
    /// Tokens that the full depth made certain, per row; none if nobody got there.
    certain: Option<f64>,
    /// Tokens drafted before it, of the row with most.
    drafted: usize,
    time: Duration,
    asking: Duration,
    /// Whether anyone was asked at an early exit.
    asked: bool,
}

impl<M: DecodeModel> Decoder<'_, M> {
    /// Whether tokens of early exits are drafts.
    pub(super) fn checks_later(&self) -> bool {
        matches!(self.kind, Kind::Speculative { .. } | Kind::Auto { .. })
    }

    pub(super) fn round(&mut self) -> Result<(), DecodeError<M::Error>> {
        let begun = Instant::now();
        let prefill = !self.started;
        self.started = true;
        let mut turn = self.turn(prefill);
        let drafted = self.rows.iter().map(|row| row.drafts.len()).max();
        let mut asked = false;
        let mut going: Vec<bool> = self.rows.iter().map(Row::is_open).collect();
        let mut travelling = self.newest(&turn, prefill)?;
        let mut certain = None;
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
                certain = Some(self.answer_at_full_depth(&states, &turn)?);
                break;
            }
            let leaving = self.leaving(index, &before, &states, &mut turn)?;
            asked = true;
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
            certain,
            drafted: drafted.unwrap_or(0),
            time: begun.elapsed(),
            asking: turn.asking,
            asked,
        };
        self.account(&round);
        Ok(())
    }

    /// Decides who feeds and who must go all the way.
    fn turn(&mut self, prefill: bool) -> Turn {
        let may_leave = self.may_leave_early(prefill);
        let checks_later = self.checks_later();
        // A draft as long as it may be; in plain steps, none at all.
        let full = |row: &Row| {
            let most = row.room_for_drafts().min(row.length.most());
            !may_leave || checks_later && row.drafts.len() >= most
        };
        // A row that drafted its own end has nothing to add to the check.
        let ended = |row: &Row| {
            let last = row.tokens.last().filter(|_| !row.drafts.is_empty());
            last.is_some_and(|token| self.stop_tokens.contains(token))
        };
        // Reading the deep blocks costs the same for one row as for all: rows check together.
        let mut open = self.rows.iter().filter(|row| row.is_open());
        let check = open.any(|row| full(row) || ended(row));
        let rows = self.rows.iter();
        Turn {
            feeds: rows
                .clone()
                .map(|row| row.is_open() && !ended(row))
                .collect(),
            through: rows.map(|row| row.is_open() && check).collect(),
            asking: Duration::ZERO,
        }
    }

    /// Whether tokens may leave early in this round.
    fn may_leave_early(&mut self, prefill: bool) -> bool {
        let no_drafts = self.rows.iter().all(|row| row.drafts.is_empty());
        let open = self.rows.iter().filter(|row| row.is_open()).count();
        match &mut self.kind {
            _ if prefill => false,
            Kind::Static => false,
            Kind::Dynamic | Kind::Speculative { .. } => true,
            Kind::Auto { tuner, cycle } => {
                if no_drafts {
                    *cycle = tuner.next_cycle(open);
                }
                *cycle != Cycle::Plain
            }
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
        let counts = states.counts(self.rows.len());
        if !prefill {
            let blocks = range.len() as u64;
            self.statistics.block_passes += blocks;
            self.statistics.block_states += blocks * states.rows.len() as u64;
            self.statistics.attended += blocks * self.attended(range.start, &counts);
        }
        let past = Past {
            cache: &mut self.cache,
            query_lens: &counts,
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

    /// Positions that new states look at in a block, themselves included.
    fn attended(&self, block: usize, counts: &[usize]) -> u64 {
        let rows = counts.iter().enumerate();
        let of_row = rows.map(|(row, &new)| {
            let earlier = self.cache.filled(block, row);
            new * earlier + new * (new + 1) / 2
        });
        of_row.sum::<usize>() as u64
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
        let earlier = self.waiting[index].take();
        self.waiting[index] =
            Packed::join(self.model, earlier, Some(states)).map_err(DecodeError::Model)?;
        Ok(())
    }

    /// Drops deferred states of rows that have ended.
    fn forget_closed_rows(&mut self) -> Result<(), DecodeError<M::Error>> {
        let open: Vec<bool> = self.rows.iter().map(Row::is_open).collect();
        for index in 0..self.waiting.len() {
            self.waiting[index] = self.take_waiting(index, &open)?;
        }
        Ok(())
    }

    /// Adds a certain token to the answer of `row`; returns whether the row goes on.
    pub(super) fn commit(&mut self, row: usize, token: u32, exit: Exit, accepted: bool) -> bool {
        self.statistics.named += 1;
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
        let time = match (round.prefill, round.certain) {
            (true, _) => &mut self.statistics.prefill,
            (false, Some(_)) => &mut self.statistics.full,
            (false, None) => &mut self.statistics.draft,
        };
        *time += round.time;
        if round.prefill {
            // What the prompts cost counts apart.
            self.statistics.named = 0;
            self.statistics.head_states = 0;
            self.statistics.head_passes = 0;
            return;
        }
        if let Kind::Auto { tuner, cycle } = &mut self.kind {
            match (*cycle, round.certain) {
                (Cycle::Draft { exit }, None) => tuner.draft_round(exit, round.time),
                (Cycle::Draft { exit }, Some(tokens)) if round.drafted > 0 || round.asked => {
                    let check = CheckRound {
                        drafted: round.drafted,
                        tokens,
                        time: round.time,
                        asking: round.asking,
                    };
                    tuner.check_round(exit, check);
                }
                // Also at its limit, where a row drafts nothing and is not asked to.
                _ => tuner.plain_round(round.time),
            }
        }
    }
}
