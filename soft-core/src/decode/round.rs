//! One round of decoding: what rows feed, where tokens exit, which states are deferred.

use std::time::{Duration, Instant};

use super::decoder::Decoder;
use super::engine::Engine;
use super::packed::Packed;
use super::strategies::Strategies;
use super::strategy::RoundSummary;
use crate::decode::settings::DecodeError;
use crate::model::decode_model::DecodeModel;

pub(super) struct Turn {
    /// Number of tokens that each row feeds.
    pub feeds: Vec<usize>,
    /// Rows whose states run to their last exit regardless of the strategy.
    pub through: Vec<bool>,
    /// Rows whose last state fed generates a token: all that feed except within a prompt.
    pub generates: Vec<bool>,
    /// Time spent at exits whose tokens were then not drafted.
    pub asking: Duration,
}

/// The states of a round, on their way from exit to exit.
struct Progress<H> {
    /// Rows whose states continue.
    continuing: Vec<bool>,
    states: Option<Packed<H>>,
    /// Index of the next segment.
    next: usize,
    /// Where states were before: after the embedding (`None`) and at exits.
    earlier: Vec<(Option<usize>, Packed<H>)>,
    /// Rows whose tokens could exit early.
    asked: Vec<bool>,
    /// Tokens that became final at the last exit, for rows that reached it.
    certain: Vec<Option<usize>>,
}

impl<M: DecodeModel> Decoder<'_, M> {
    /// Runs one round, in which every open row feeds tokens; see
    /// [`take_steps`](Self::take_steps).
    ///
    /// # Errors
    /// Errors of the model.
    pub fn round(&mut self) -> Result<(), DecodeError<M::Error>> {
        let begun = Instant::now();
        let engine = &mut self.engine;
        let rows = engine.rows.iter();
        engine.counted = rows.map(|row| !row.has_prompt_left()).collect();
        let prompts = engine.counted.contains(&false);
        let mut turn = engine.turn(&mut self.strategies);
        let drafted: Vec<usize> = engine.rows.iter().map(|row| row.drafts.len()).collect();
        let progress = engine.run(&mut turn, &mut self.strategies)?;
        engine.drop_closed_rows()?;
        let time = begun.elapsed();
        engine.account(&turn, &progress, time);
        if !prompts {
            self.end_round(&turn, &progress, (&drafted, time));
        }
        Ok(())
    }

    /// Reports the round to the strategies. Rounds with prompts are not reported, since strategies
    /// learn from times.
    fn end_round(
        &mut self,
        turn: &Turn,
        progress: &Progress<M::Hidden>,
        (drafted, time): (&[usize], Duration),
    ) {
        for index in 0..self.strategies.len() {
            let rows = self.engine.rows.iter().enumerate();
            let fed = |row: &usize| turn.feeds[*row] > 0 || drafted[*row] > 0;
            let of_strategy = rows.filter(|(_, row)| row.strategy == index);
            let rows: Vec<usize> = of_strategy.map(|(row, _)| row).filter(fed).collect();
            if rows.is_empty() {
                continue;
            }
            let certain: Vec<usize> = rows
                .iter()
                .filter_map(|&row| progress.certain[row])
                .collect();
            let tokens: usize = certain.iter().sum();
            let summary = RoundSummary {
                certain: (!certain.is_empty()).then(|| tokens as f64 / certain.len() as f64),
                drafted: rows.iter().map(|&row| drafted[row]).max().unwrap_or(0),
                asked: rows.iter().any(|&row| progress.asked[row]),
                time,
                asking: turn.asking,
            };
            self.strategies.at_mut(index).end_round(&summary);
        }
    }
}

impl<M: DecodeModel> Engine<'_, M> {
    /// Decides what rows feed, and whether they run to their last exit.
    fn turn(&self, strategies: &mut Strategies) -> Turn {
        let rows = 0..self.rows.len();
        let feeds = self.feeds();
        let through = self.through(&feeds, strategies);
        let ends_prompt =
            |row: usize| self.rows[row].prompt_fed + feeds[row] >= self.rows[row].prompt;
        Turn {
            generates: rows.map(|row| feeds[row] > 0 && ends_prompt(row)).collect(),
            feeds,
            through,
            asking: Duration::ZERO,
        }
    }

    /// Number of tokens that each row feeds: its newest one, or a part of its prompt. While other
    /// rows decode, one prompt is processed at a time, the oldest first, so that they do not stall.
    fn feeds(&self) -> Vec<usize> {
        let decoding = |row: usize| self.counted[row] && self.rows[row].is_open();
        let prompts = (0..self.rows.len()).filter(|row| !self.counted[*row]);
        let oldest = prompts.min_by_key(|row| self.rows[*row].joined);
        let one_prompt = (0..self.rows.len()).any(decoding);
        let feeds = |row: usize| {
            let state = &self.rows[row];
            if self.counted[row] {
                // A row that drafted a stop token feeds nothing before verification.
                return usize::from(state.is_open() && !state.drafted_a_stop());
            }
            if one_prompt && oldest != Some(row) {
                return 0;
            }
            (state.prompt - state.prompt_fed).min(self.prompt_chunk)
        };
        (0..self.rows.len()).map(feeds).collect()
    }

    /// Rows that run to their last exit: prompts, rows whose strategy requires it, and rows whose
    /// drafts are verified since others run there.
    fn through(&self, feeds: &[usize], strategies: &mut Strategies) -> Vec<bool> {
        let may_exit = self.begin_round(strategies);
        let own = |row: usize| {
            let state = &self.rows[row];
            let strategy = strategies.of(state);
            let most = state.room_for_drafts().min(strategy.draft_limit());
            let drafted = strategy.verifies() && state.drafts.len() >= most;
            !may_exit[state.strategy] || drafted || state.drafted_a_stop()
        };
        let open = |row: usize| self.rows[row].is_open();
        let runs = |row: usize| {
            if self.counted[row] {
                own(row)
            } else {
                feeds[row] > 0
            }
        };
        let runs: Vec<bool> = (0..self.rows.len())
            .map(|row| open(row) && runs(row))
            .collect();
        let last = |row: usize| self.rows[row].exits.last();
        let deepest = (0..self.rows.len())
            .filter(|row| runs[*row])
            .map(last)
            .max();
        let joins = |row: usize| {
            let runs_anyway = deepest.is_some_and(|deepest| last(row) <= deepest);
            runs_anyway && self.counted[row] && strategies.joins(&self.rows[row])
        };
        (0..self.rows.len())
            .map(|row| open(row) && (runs[row] || joins(row)))
            .collect()
    }

    /// Whether tokens of each strategy may exit early in this round. A strategy that learns from
    /// times is suspended in rounds with prompts.
    fn begin_round(&self, strategies: &mut Strategies) -> Vec<bool> {
        let open = self.rows.iter().filter(|row| row.is_open()).count();
        let mut may_exit = vec![false; strategies.len()];
        for (index, may_exit) in may_exit.iter_mut().enumerate() {
            let decoding = |row: &usize| {
                let state = &self.rows[*row];
                self.counted[*row] && state.is_open() && state.strategy == index
            };
            let mut rows = (0..self.rows.len()).filter(decoding).peekable();
            let strategy = strategies.at_mut(index);
            if strategy.is_shared() && self.counted.contains(&false) {
                strategy.suspend();
            } else if rows.peek().is_some() {
                let drafting = rows.any(|row| !self.rows[row].drafts.is_empty());
                *may_exit = strategy.begin_round(open, drafting);
            }
        }
        may_exit
    }

    /// Runs the states from exit to exit, until none continues.
    fn run(
        &mut self,
        turn: &mut Turn,
        strategies: &mut Strategies,
    ) -> Result<Progress<M::Hidden>, DecodeError<M::Error>> {
        for row in (0..self.rows.len()).filter(|&row| turn.feeds[row] > 0 && self.counted[row]) {
            strategies.of_mut(&self.rows[row]).next_token();
        }
        let has_states = |row: usize| turn.feeds[row] > 0 || !self.rows[row].drafts.is_empty();
        let open = self.open_rows().into_iter().enumerate();
        let continuing = open.map(|(row, open)| open && has_states(row)).collect();
        let states = self.embed(turn)?;
        let mut progress = Progress {
            continuing,
            earlier: states.iter().map(|states| (None, states.clone())).collect(),
            states,
            next: 0,
            asked: vec![false; self.rows.len()],
            certain: vec![None; self.rows.len()],
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
            let index = self.next_stop(&progress, turn, strategies);
            let range = self.segments[progress.next].start..self.segments[index].end;
            let states = self.run_blocks(range, states)?;
            progress.next = index + 1;
            self.stop_at(index, states, &mut progress, (turn, strategies))?;
        }
        Ok(progress)
    }

    /// At the exit of this index: tokens become final at the last exit of their rows, or exit early.
    fn stop_at(
        &mut self,
        index: usize,
        states: Packed<M::Hidden>,
        progress: &mut Progress<M::Hidden>,
        (turn, strategies): (&mut Turn, &mut Strategies),
    ) -> Result<(), DecodeError<M::Error>> {
        self.keep_passed(index, &states)?;
        let (last, states) = states
            .split(self.model, |row| self.rows[row].exits.last() == index)
            .map_err(DecodeError::Model)?;
        if let Some(states) = last {
            self.continue_answers(index, &states, turn, (strategies, &mut progress.certain))?;
            for &row in &states.rows {
                progress.continuing[row] = false;
            }
        }
        self.append_prompts(index)?;
        let Some(states) = states else {
            return Ok(());
        };
        for (row, asked) in progress.asked.iter_mut().enumerate() {
            *asked |= progress.continuing[row] && self.may_exit_at(index, row, turn, strategies);
        }
        let at = (index, &states);
        let exited = self.exit_early(at, &progress.earlier, turn, strategies)?;
        if turn.through.contains(&false) {
            progress.earlier.push((Some(index), states.clone()));
        }
        let (waits, continues) = states
            .split(self.model, |row| exited[row])
            .map_err(DecodeError::Model)?;
        for (continuing, exited) in progress.continuing.iter_mut().zip(&exited) {
            *continuing &= !exited;
        }
        self.defer(index, waits)?;
        progress.states = continues;
        Ok(())
    }

    /// Whether the token of `row` may exit at the exit of this index.
    pub(super) fn may_exit_at(
        &self,
        index: usize,
        row: usize,
        turn: &Turn,
        strategies: &Strategies,
    ) -> bool {
        let state = &self.rows[row];
        let own = state.exits.own(index);
        !turn.through[row] && own.is_some_and(|own| strategies.of(state).stops_at(own))
    }

    /// Index of the next exit where states are deferred, or that is the last one of a row, or where
    /// a token may exit or an exit's own block needs the states.
    fn next_stop(
        &self,
        progress: &Progress<M::Hidden>,
        turn: &Turn,
        strategies: &Strategies,
    ) -> usize {
        let needs = |index: usize, row: usize| {
            let exits = &self.rows[row].exits;
            exits.last() == index
                || exits.uses(index) && self.exit_block(index).is_some()
                || self.may_exit_at(index, row, turn, strategies)
        };
        let stops = |&index: &usize| {
            let waits = index + 1 < self.exits.len() && self.waiting[index].is_some();
            let mut rows = (0..self.rows.len()).filter(|&row| progress.continuing[row]);
            waits || rows.any(|row| needs(index, row))
        };
        let full = self.exits.len() - 1;
        (progress.next..full).find(stops).unwrap_or(full)
    }

    /// Adds the time of a round to the statistics.
    fn account(&mut self, turn: &Turn, progress: &Progress<M::Hidden>, time: Duration) {
        let rows = (0..self.rows.len()).filter(|&row| self.counted[row]);
        let decoded = rows
            .clone()
            .any(|row| turn.feeds[row] > 0 || progress.certain[row].is_some());
        let certain = rows.clone().any(|row| progress.certain[row].is_some());
        let statistics = &mut self.statistics;
        if !decoded {
            statistics.prefill += time;
        } else if certain {
            statistics.full += time;
        } else {
            statistics.draft += time;
        }
    }
}
