//! The strategies of a decoder's rows.

use super::row::Row;
use super::strategy::{Auto, Dynamic, Fixed, Speculative, Strategy};
use super::tuner::Tuner;
use crate::decode::settings::Mode;
use crate::exit::Exits;

/// Shared strategies that are kept while no row uses them, since they have learned.
const MOST_SHARED: usize = 4;

/// One strategy per row, then the shared ones.
pub(super) struct Strategies {
    rows: usize,
    strategies: Vec<Box<dyn Strategy>>,
    /// The exits of the shared ones.
    shared_exits: Vec<Exits>,
}

impl Strategies {
    pub fn new(rows: usize) -> Self {
        Self {
            rows,
            strategies: (0..rows)
                .map(|_| Box::new(Fixed) as Box<dyn Strategy>)
                .collect(),
            shared_exits: Vec::new(),
        }
    }

    /// Adds the strategy of a row and returns its index. Rows in automatic mode with the same exits
    /// share the strategy, and the tuner, of the first. Strategies that are not `used` may be
    /// replaced.
    pub fn add(&mut self, row: usize, mode: Mode, used: &[usize]) -> usize {
        let strategy: Box<dyn Strategy> = match mode {
            Mode::Static(_) => Box::new(Fixed),
            Mode::Dynamic(dynamic) => Box::new(Dynamic(dynamic.policy)),
            Mode::Speculative(speculation) => {
                Box::new(Speculative::new(speculation.policy, speculation.length))
            }
            Mode::Auto(tuner) => return self.share(row, tuner, used),
        };
        self.strategies[row] = strategy;
        row
    }

    fn share(&mut self, row: usize, tuner: Tuner, used: &[usize]) -> usize {
        let exits = tuner.exits().clone();
        let count = self.shared_exits.len();
        let known = self.shared_exits.iter().position(|other| *other == exits);
        let unused = || (0..count).find(|shared| !used.contains(&(self.rows + shared)));
        let replaced = if count < MOST_SHARED { None } else { unused() };
        let index = self.rows + known.or(replaced).unwrap_or(count);
        if known.is_none() {
            let strategy = Box::new(Auto::new(tuner, self.rows));
            match replaced {
                Some(shared) => {
                    self.shared_exits[shared] = exits;
                    self.strategies[index] = strategy;
                }
                None => {
                    self.shared_exits.push(exits);
                    self.strategies.push(strategy);
                }
            }
        }
        self.strategies[index].row_joins(row);
        index
    }

    pub fn len(&self) -> usize {
        self.strategies.len()
    }

    pub fn of(&self, row: &Row) -> &dyn Strategy {
        &*self.strategies[row.strategy]
    }

    pub fn of_mut(&mut self, row: &Row) -> &mut dyn Strategy {
        &mut *self.strategies[row.strategy]
    }

    pub fn at_mut(&mut self, index: usize) -> &mut dyn Strategy {
        &mut *self.strategies[index]
    }

    /// Whether the row's drafts are verified whenever the deep blocks run for another row, since
    /// they cost about the same for one row as for all. Otherwise the draws of a sampled row would
    /// depend on the others.
    pub fn joins(&self, row: &Row) -> bool {
        let strategy = self.of(row);
        strategy.verifies() && (strategy.is_shared() || row.sampling.is_greedy())
    }

    /// What automatic mode has learned.
    pub fn into_tuner(self) -> Option<Tuner> {
        let mut shared = self.strategies.into_iter().skip(self.rows);
        shared.next().and_then(|strategy| strategy.into_tuner())
    }
}
