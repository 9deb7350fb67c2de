//! Exits with a block of their own, which has its own keys and values (Balcony, arXiv 2503.05005).
//!
//! A state that passes such an exit is kept. When the exit is next used for the row, the keys and
//! values of the states kept are appended in one pass, and only the states that the head needs run
//! through the block. The states of prompts are appended in the pass over the prompts.

use super::engine::Engine;
use super::packed::Packed;
use crate::decode::settings::DecodeError;
use crate::model::decode_model::DecodeModel;
use crate::model::nested::Past;

impl<M: DecodeModel> Engine<'_, M> {
    /// The index of the block of the exit of this index, if it has its own.
    pub fn exit_block(&self, index: usize) -> Option<usize> {
        self.model.exit_block(self.exits[index])
    }

    /// Keeps states of rows that use the exit of this index for its block.
    pub fn keep_passed(
        &mut self,
        index: usize,
        states: &Packed<M::Hidden>,
    ) -> Result<(), DecodeError<M::Error>> {
        if self.exit_block(index).is_some() {
            let uses = |row: usize| self.rows[row].exits.uses(index);
            let (kept, _) = states
                .clone()
                .split(self.model, uses)
                .map_err(DecodeError::Model)?;
            self.passed[index].extend(kept);
        }
        Ok(())
    }

    /// The states that the head of the exit of this index takes for the `picked` ones of `states`,
    /// which are the newest of their rows. Each row is asked for once per pass.
    pub fn head_states(
        &mut self,
        index: usize,
        states: &Packed<M::Hidden>,
        picked: &[usize],
    ) -> Result<M::Hidden, DecodeError<M::Error>> {
        let Some(block) = self.exit_block(index) else {
            return self
                .model
                .select(&states.hidden, picked)
                .map_err(DecodeError::Model);
        };
        let mut newest = vec![0; self.rows.len()];
        for &state in picked {
            newest[states.rows[state]] += 1;
        }
        let states = self.append_passed(index, &newest)?;
        let states = states.filter(|states| states.rows.len() == picked.len());
        let Some(states) = states else {
            unreachable!("the states of this pass are kept until their rows are asked for");
        };
        Ok(self.run_blocks(block..block + 1, states)?.hidden)
    }

    /// Appends the keys and values of the states kept at the exit of this index, except for the
    /// newest ones of each row, which are returned. Rows without any of these are left alone.
    fn append_passed(
        &mut self,
        index: usize,
        newest: &[usize],
    ) -> Result<Option<Packed<M::Hidden>>, DecodeError<M::Error>> {
        let Some(passed) = self.take_passed(index)? else {
            return Ok(None);
        };
        let (passed, others) = passed
            .split(self.model, |row| newest[row] > 0)
            .map_err(DecodeError::Model)?;
        self.passed[index].extend(others);
        let Some(passed) = passed else {
            return Ok(None);
        };
        let (later, rows) = (passed.later_states(), passed.rows.clone());
        let (newest, earlier) = passed
            .separate(self.model, |state| later[state] < newest[rows[state]])
            .map_err(DecodeError::Model)?;
        self.append_states(index, earlier)?;
        Ok(newest)
    }

    /// Takes the states kept at the exit of this index.
    fn take_passed(
        &mut self,
        index: usize,
    ) -> Result<Option<Packed<M::Hidden>>, DecodeError<M::Error>> {
        let parts = std::mem::take(&mut self.passed[index]);
        Packed::merge_all(self.model, parts).map_err(DecodeError::Model)
    }

    /// Appends the keys and values of the states of prompts kept at the exit of this index.
    pub fn append_prompts(&mut self, index: usize) -> Result<(), DecodeError<M::Error>> {
        if !self.counted.contains(&false) {
            return Ok(());
        }
        let Some(passed) = self.take_passed(index)? else {
            return Ok(());
        };
        let (prompts, others) = passed
            .split(self.model, |row| !self.counted[row])
            .map_err(DecodeError::Model)?;
        self.passed[index].extend(others);
        self.append_states(index, prompts)
    }

    fn append_states(
        &mut self,
        index: usize,
        states: Option<Packed<M::Hidden>>,
    ) -> Result<(), DecodeError<M::Error>> {
        let (Some(block), Some(states)) = (self.exit_block(index), states) else {
            return Ok(());
        };
        let query_lens = states.counts(self.rows.len());
        self.statistics.appended_states += self.counted_states(&states.rows);
        let past = Past {
            cache: &mut self.cache,
            query_lens: &query_lens,
        };
        self.model
            .append_states(states.hidden, block, past)
            .map_err(DecodeError::Model)
    }

    /// Drops kept states of rows for which `kept` does not hold.
    pub fn drop_passed(
        &mut self,
        kept: impl Fn(usize) -> bool,
    ) -> Result<(), DecodeError<M::Error>> {
        for index in 0..self.passed.len() {
            let mut rows = self.passed[index].iter().flat_map(|part| &part.rows);
            if rows.all(|&row| kept(row)) {
                continue;
            }
            if let Some(states) = self.take_passed(index)? {
                let (states, _) = states
                    .split(self.model, &kept)
                    .map_err(DecodeError::Model)?;
                self.passed[index].extend(states);
            }
        }
        Ok(())
    }

    /// Drops kept states of `row` after its first `positions`; the cache is truncated already.
    pub fn truncate_passed(
        &mut self,
        row: usize,
        positions: usize,
    ) -> Result<(), DecodeError<M::Error>> {
        for index in 0..self.passed.len() {
            let Some(block) = self.exit_block(index) else {
                continue;
            };
            let held = self.cache.lengths().filled(block, row);
            let rows = self.passed[index].iter().flat_map(|part| &part.rows);
            let kept = rows.filter(|other| **other == row).count();
            let surplus = (held + kept).saturating_sub(positions);
            if surplus == 0 {
                continue;
            }
            if let Some(states) = self.take_passed(index)? {
                let (later, rows) = (states.later_states(), states.rows.clone());
                let stays = |state: usize| rows[state] != row || later[state] >= surplus;
                let (states, _) = states
                    .separate(self.model, stays)
                    .map_err(DecodeError::Model)?;
                self.passed[index].extend(states);
            }
        }
        Ok(())
    }
}
