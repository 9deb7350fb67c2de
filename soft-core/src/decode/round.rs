//! One round of decoding: which rows feed a token, where tokens exit, which states are deferred.

use std::time::{Duration, Instant};

use super::decoder::Decoder;
use super::engine::{Engine, Input};
use super::packed::Packed;
use super::row::Row;
use super::strategy::{RoundSummary, Strategy};
use crate::decode::settings::DecodeError;
use crate::model::decode_model::DecodeModel;

pub(super) struct Turn {
    /// Rows that feed their newest token.
    pub feeds: Vec<bool>,
    /// Rows whose states run to the full depth regardless of the strategy.
    pub through: Vec<bool>,
    /// Time spent at exits whose tokens were then not drafted.
    pub asking: Duration,
}

struct Progress<H> {
    /// Rows whose states continue.
    continuing: Vec<bool>,
    states: Option<Packed<H>>,
    /// Index of the next segment.
    next: usize,
    /// Whether tokens could exit early.
    asked: bool,
    /// Tokens that became final at the full depth, per row.
    certain: Option<f64>,
}

impl<M: DecodeModel> Decoder<'_, M> {
    pub(super) fn round(&mut self) -> Result<(), DecodeError<M::Error>> {
        let begun = Instant::now();
        let prefill = !self.started;
        self.started = true;
        let strategy = self.strategy.as_mut();
        let mut turn = if prefill {
            prompts_turn(&self.engine.rows)
        } else {
            self.engine.turn(strategy)
        };
        let drafted = self.engine.rows.iter().map(|row| row.drafts.len()).max();
        let done = self.engine.run(&mut turn, strategy, prefill)?;
        self.engine.drop_closed_rows()?;
        let summary = RoundSummary {
            certain: done.certain,
            drafted: drafted.unwrap_or(0),
            asked: done.asked,
            time: begun.elapsed(),
            asking: turn.asking,
        };
        self.engine.account(&summary, prefill);
        if !prefill {
            self.strategy.end_round(&summary);
        }
        Ok(())
    }
}

impl<H> Progress<H> {
    /// Whether all states that continue run to the full depth.
    fn all_through(&self, turn: &Turn) -> bool {
        let mut rows = self.continuing.iter().zip(&turn.through);
        rows.all(|(continuing, through)| !continuing || *through)
    }
}

/// All open rows feed their prompts, to the full depth.
fn prompts_turn(rows: &[Row]) -> Turn {
    let open: Vec<bool> = rows.iter().map(Row::is_open).collect();
    Turn {
        feeds: open.clone(),
        through: open,
        asking: Duration::ZERO,
    }
}

impl<M: DecodeModel> Engine<'_, M> {
    /// Decides which rows feed, and whether they run to the full depth.
    fn turn(&self, strategy: &mut dyn Strategy) -> Turn {
        let open = self.rows.iter().filter(|row| row.is_open()).count();
        let drafting = self.rows.iter().any(|row| !row.drafts.is_empty());
        let may_exit = strategy.begin_round(open, drafting);
        let full = |(index, row): (usize, &Row)| {
            let most = row.room_for_drafts().min(strategy.draft_limit(index));
            !may_exit || strategy.verifies() && row.drafts.len() >= most
        };
        // A row that drafted a stop token feeds nothing before verification.
        let ended = |row: &Row| row.drafted_a_stop(&self.stop_tokens);
        // The deep blocks cost the same for one row as for all, so rows are verified together.
        let mut open = self
            .rows
            .iter()
            .enumerate()
            .filter(|(_, row)| row.is_open());
        let verify = open.any(|(index, row)| full((index, row)) || ended(row));
        let rows = self.rows.iter();
        Turn {
            feeds: rows
                .clone()
                .map(|row| row.is_open() && !ended(row))
                .collect(),
            through: rows.map(|row| row.is_open() && verify).collect(),
            asking: Duration::ZERO,
        }
    }

    /// Runs the states from exit to exit, until none continues.
    fn run(
        &mut self,
        turn: &mut Turn,
        strategy: &mut dyn Strategy,
        prefill: bool,
    ) -> Result<Progress<M::Hidden>, DecodeError<M::Error>> {
        let input = if prefill {
            Input::Prompts
        } else {
            Input::Newest
        };
        for row in (0..self.rows.len()).filter(|&row| turn.feeds[row]) {
            strategy.next_token(row);
        }
        let mut progress = Progress {
            continuing: self.open_rows(),
            states: self.embed(&turn.feeds, input)?,
            next: 0,
            asked: false,
            certain: None,
        };
        while progress.next < self.exits.len() {
            if progress.next > 0 {
                let waited = self.take_waiting(progress.next - 1, &progress.continuing)?;
                progress.states = Packed::merge(self.model, waited, progress.states)
                    .map_err(DecodeError::Model)?;
            }
            // Drafts of a row that feeds nothing may be deferred at a later exit.
            let Some(states) = progress.states.take() else {
                progress.next += 1;
                continue;
            };
            let all_through = progress.all_through(turn);
            let index = self.next_stop((progress.next, all_through), strategy);
            let before = states.hidden.clone();
            let range = self.segments[progress.next].start..self.segments[index].end;
            let states = self.run_blocks(range, states)?;
            self.keep_passed(index, &states);
            progress.next = index + 1;
            if progress.next == self.exits.len() {
                progress.certain = Some(self.continue_answers(&states, turn, strategy)?);
                break;
            }
            if prefill {
                self.append_all_passed(index)?;
            }
            progress.asked |= !all_through && strategy.stops_at(index);
            let exited = self.exit_early(index, (&before, &states), turn, strategy)?;
            let (waits, continues) = states
                .split(self.model, |row| exited[row])
                .map_err(DecodeError::Model)?;
            for (continuing, exited) in progress.continuing.iter_mut().zip(&exited) {
                *continuing &= !exited;
            }
            self.defer(index, waits)?;
            progress.states = continues;
        }
        Ok(progress)
    }

    /// Index of the exit, from `next` on, where a token may exit, states are deferred or an exit's
    /// own block needs them, or of the full depth.
    fn next_stop(&self, (next, all_through): (usize, bool), strategy: &dyn Strategy) -> usize {
        let stops = |&index: &usize| {
            self.waiting[index].is_some()
                || self.exit_block(index).is_some()
                || !all_through && strategy.stops_at(index)
        };
        let full = self.exits.len() - 1;
        (next..full).find(stops).unwrap_or(full)
    }

    /// Adds the time of a round to the statistics.
    fn account(&mut self, round: &RoundSummary, prefill: bool) {
        let statistics = &mut self.statistics;
        if prefill {
            statistics.prefill += round.time;
            // Costs per token exclude the pass over the prompts.
            statistics.generated = 0;
            statistics.block_states = 0;
            statistics.block_passes = 0;
            statistics.appended_states = 0;
            statistics.attended = 0;
            statistics.head_states = 0;
            statistics.head_passes = 0;
        } else if round.certain.is_some() {
            statistics.full += round.time;
        } else {
            statistics.draft += round.time;
        }
    }
}
