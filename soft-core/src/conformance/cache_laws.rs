//! Laws of the cache: feeding in pieces, deferred states, truncation, ragged rows.

use std::ops::Range;

use super::laws::Laws;
use super::observe::Values;
use super::{LawBroken, Observed, failed};
use crate::exit::{Exit, Exits};
use crate::model::nested::Past;
use crate::random::Random;

impl<M: Observed> Laws<'_, M> {
    /// Feeding positions in pieces through a cache equals the whole sequence at once.
    pub(super) fn cached_is_uncached(&self) -> Result<(), LawBroken> {
        const LAW: &str = "cached = uncached";
        let seq = self.rows[0].len();
        for exit in self.exits.iter() {
            let whole = self.sub_model(LAW, &self.rows, exit)?;
            for piece in [1, 3, seq] {
                let mut cache = self
                    .model
                    .empty_cache(self.rows.len(), seq)
                    .map_err(failed(LAW))?;
                let mut found = vec![Vec::new(); self.rows.len()];
                for start in (0..seq).step_by(piece) {
                    let part = columns(&self.rows, start..seq.min(start + piece));
                    let logits = self.cached(LAW, &part, exit, &mut cache)?;
                    append(&mut found, logits);
                }
                self.same(LAW, &whole, &found)?;
            }
        }
        Ok(())
    }

    /// States are deferred at the first exit; deeper blocks run on all of them later.
    pub(super) fn late_blocks_catch_up(&self) -> Result<(), LawBroken> {
        const LAW: &str = "deep blocks run late = deep blocks run at once";
        let (first, last) = (first_exit(&self.exits), self.exits.last());
        let seq = self.rows[0].len();
        let mut cache = self
            .model
            .empty_cache(self.rows.len(), seq)
            .map_err(failed(LAW))?;
        let mut waiting = Vec::new();
        for position in 0..seq {
            let next = columns(&self.rows, position..position + 1);
            waiting.push(self.run(LAW, &next, 0..first.depth(), &mut cache)?);
        }
        // From position-major to row-major order.
        let rows = self.rows.len();
        let order: Vec<usize> = (0..rows)
            .flat_map(|row| (0..seq).map(move |position| position * rows + row))
            .collect();
        let waiting: Vec<_> = waiting.iter().collect();
        let hidden = self.model.gather(&waiting, &order).map_err(failed(LAW))?;
        let counts = vec![seq; rows];
        let past = Past {
            cache: &mut cache,
            query_lens: &counts,
        };
        let deep = first.depth()..last.depth();
        let hidden = self
            .model
            .blocks(hidden, deep, Some(past))
            .map_err(failed(LAW))?;
        let found = self.unpacked(LAW, &hidden, &counts, last)?;
        let whole = self.sub_model(LAW, &self.rows, last)?;
        self.same(LAW, &whole, &found)
    }

    /// Keys and values that are appended alone equal those of a pass through the exit's own block.
    pub(super) fn appended_is_run(&self) -> Result<(), LawBroken> {
        const LAW: &str = "states appended to an exit's own block = states run through it";
        let seq = self.rows[0].len();
        let early = columns(&self.rows, 0..seq - 1);
        let counts = vec![seq - 1; self.rows.len()];
        let own = |exit: Exit| Some((exit, self.model.exit_block(exit)?));
        for (exit, block) in self.exits.iter().filter_map(own) {
            let mut cache = self
                .model
                .empty_cache(self.rows.len(), seq)
                .map_err(failed(LAW))?;
            let hidden = self.run(LAW, &early, 0..exit.depth(), &mut cache)?;
            let past = Past {
                cache: &mut cache,
                query_lens: &counts,
            };
            let appended = self.model.append_states(hidden, block, past);
            appended.map_err(failed(LAW))?;
            let last = columns(&self.rows, seq - 1..seq);
            let found = self.cached(LAW, &last, exit, &mut cache)?;
            let whole = self.sub_model(LAW, &self.rows, exit)?;
            let last = |row: Vec<Vec<f64>>| row[seq - 1..].to_vec();
            let expected: Vec<_> = whole.into_iter().map(last).collect();
            self.same(LAW, &expected, &found)?;
        }
        Ok(())
    }

    /// A truncated cache behaves as if the removed positions had never been fed.
    pub(super) fn forgotten_positions_can_be_rewritten(&self) -> Result<(), LawBroken> {
        self.exits
            .iter()
            .try_for_each(|exit| self.forgotten_positions_of(exit))
    }

    fn forgotten_positions_of(&self, exit: Exit) -> Result<(), LawBroken> {
        const LAW: &str = "truncated and rewritten = written once";
        let seq = self.rows[0].len();
        let mut cache = self
            .model
            .empty_cache(self.rows.len(), seq)
            .map_err(failed(LAW))?;
        let wrong: Vec<Vec<u32>> = self
            .rows
            .iter()
            .map(|row| row.iter().rev().copied().collect())
            .collect();
        self.cached(LAW, &columns(&self.rows, 0..2), exit, &mut cache)?;
        self.cached(LAW, &columns(&wrong, 2..seq), exit, &mut cache)?;
        for row in 0..self.rows.len() {
            cache.truncate(row, 2);
        }
        let found = self.cached(LAW, &columns(&self.rows, 2..seq), exit, &mut cache)?;
        let whole = self.sub_model(LAW, &self.rows, exit)?;
        let expected: Vec<_> = whole.into_iter().map(|row| row[2..].to_vec()).collect();
        self.same(LAW, &expected, &found)
    }

    /// Rows of different prompt lengths in one batch, continued by different numbers of tokens.
    pub(super) fn ragged_rows_are_each_row_alone(&self) -> Result<(), LawBroken> {
        const LAW: &str = "a batch of ragged rows = each row alone";
        let exit = self.exits.last();
        let seq = self.rows[0].len();
        let prompt = |row: usize| seq - 2 - row % (seq - 2);
        let mut cache = self
            .model
            .empty_cache(self.rows.len(), seq)
            .map_err(failed(LAW))?;
        let part = |start: &dyn Fn(usize) -> usize, end: &dyn Fn(usize) -> usize| -> Vec<_> {
            let rows = self.rows.iter().enumerate();
            rows.map(|(row, tokens)| tokens[start(row)..end(row)].to_vec())
                .collect()
        };
        let end = |row: usize| prompt(row) + 1 + row % 2;
        self.cached(LAW, &part(&|_| 0, &prompt), exit, &mut cache)?;
        let found = self.cached(LAW, &part(&prompt, &end), exit, &mut cache)?;
        for (row, tokens) in self.rows.iter().enumerate() {
            let alone = self.sub_model(LAW, &[tokens[..end(row)].to_vec()], exit)?;
            let expected = vec![alone[0][prompt(row)..].to_vec()];
            self.same(LAW, &expected, &found[row..=row])?;
        }
        Ok(())
    }
}

/// States deferred at random exits that continue with a later one of their row equal an eager run.
pub(super) fn staircases_catch_up<M: Observed>(
    model: &M,
    rows: &[Vec<u32>],
    exits: &Exits,
    tolerance: f64,
) -> Result<(), LawBroken> {
    const LAW: &str = "states that waited at any exits = an eager run";
    let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
    let segments: Vec<Range<usize>> = exits.segments().collect();
    let mut cache = model
        .empty_cache(rows.len(), longest)
        .map_err(failed(LAW))?;
    let mut rng = Random::new(rows.len() as u64);
    // For each number of completed segments and each row, the states that wait there.
    let mut waiting: Vec<Vec<Vec<M::Hidden>>> = vec![vec![Vec::new(); rows.len()]; exits.len() + 1];
    for position in 0..longest {
        let mut reach = Vec::new();
        for (row, tokens) in rows.iter().enumerate() {
            let Some(&token) = tokens.get(position) else {
                reach.push(0);
                continue;
            };
            let embedded = model.tokens(&[vec![token]]).and_then(|t| model.embed(&t));
            waiting[0][row].push(embedded.map_err(failed(LAW))?);
            let early = 1 + (rng.uniform() * exits.len() as f64) as usize;
            let last = position + 1 == tokens.len();
            reach.push(if last { exits.len() } else { early });
        }
        for (index, segment) in segments.iter().enumerate() {
            let going = |row: usize| reach[row] > index;
            let mut counts = vec![0; rows.len()];
            let mut states = Vec::new();
            for row in (0..rows.len()).filter(|&row| going(row)) {
                counts[row] = waiting[index][row].len();
                states.append(&mut waiting[index][row]);
            }
            if states.is_empty() {
                continue;
            }
            let past = Past {
                cache: &mut cache,
                query_lens: &counts,
            };
            let hidden = joined(model, &states);
            let hidden =
                hidden.and_then(|hidden| model.blocks(hidden, segment.clone(), Some(past)));
            let hidden = hidden.map_err(failed(LAW))?;
            let mut state = 0;
            for (row, &count) in counts.iter().enumerate() {
                for _ in 0..count {
                    let one = model.select(&hidden, &[state]).map_err(failed(LAW))?;
                    waiting[index + 1][row].push(one);
                    state += 1;
                }
            }
        }
    }
    let laws = Laws {
        model,
        rows: rows.to_vec(),
        exits: exits.clone(),
        tolerance,
    };
    for (row, tokens) in rows.iter().enumerate() {
        let states = std::mem::take(&mut waiting[exits.len()][row]);
        let hidden = joined(model, &states).map_err(failed(LAW))?;
        let found = laws.unpacked(LAW, &hidden, &[tokens.len()], exits.last())?;
        let whole = laws.sub_model(LAW, std::slice::from_ref(tokens), exits.last())?;
        laws.same(LAW, &whole, &found)?;
    }
    Ok(())
}

fn joined<M: Observed>(model: &M, states: &[M::Hidden]) -> Result<M::Hidden, M::Error> {
    let parts: Vec<_> = states.iter().collect();
    let order: Vec<_> = (0..parts.len()).collect();
    model.gather(&parts, &order)
}

fn columns(rows: &[Vec<u32>], range: Range<usize>) -> Vec<Vec<u32>> {
    rows.iter().map(|row| row[range.clone()].to_vec()).collect()
}

fn append(rows: &mut [Vec<Vec<f64>>], more: Values) {
    for (row, more) in rows.iter_mut().zip(more) {
        row.extend(more);
    }
}

pub(super) fn truncated(values: &[Vec<Vec<f64>>], positions: usize) -> Values {
    values.iter().map(|row| row[..positions].to_vec()).collect()
}

fn first_exit(exits: &Exits) -> Exit {
    exits.iter().next().unwrap_or_else(|| exits.last())
}
