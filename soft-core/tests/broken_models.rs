//! The laws are worth nothing unless models that break them are caught: one defect for each.

#![allow(clippy::unwrap_used)] // a test's way to fail

use std::ops::Range;

use soft_core::conformance::{Laws, Observed};
use soft_core::toy::{ToyCache, ToyError, ToyHidden, ToyModel};
use soft_core::{
    Batch, DecodeModel, Exit, Exits, KvCache, NestedModel, Target, TargetScores, TrainModel,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Defect {
    /// Mixes the next token into every embedding.
    SeesTheFuture,
    /// Runs blocks without looking at the cache.
    IgnoresTheCache,
    /// Keeps what it was told to forget.
    NeverForgets,
    /// Counts every token twice.
    DoublesTheLoss,
    /// Computes other states when a pass stops at an exit on its way.
    StumblesAtExits,
    /// Learns what fills short rows.
    LearnsFromPadding,
}

struct Broken {
    model: ToyModel,
    defect: Defect,
}

/// A cache that may refuse to forget.
struct BrokenCache {
    cache: ToyCache,
    forgets: bool,
}

impl KvCache for BrokenCache {
    fn rows(&self) -> usize {
        self.cache.rows()
    }

    fn filled(&self, block: usize, row: usize) -> usize {
        self.cache.filled(block, row)
    }

    fn capacity(&self) -> usize {
        self.cache.capacity()
    }

    fn truncate(&mut self, row: usize, positions: usize) {
        if self.forgets {
            self.cache.truncate(row, positions);
        }
    }
}

impl NestedModel for Broken {
    type Tokens = Vec<Vec<u32>>;
    type Hidden = ToyHidden;
    type Logits = ToyHidden;
    type Cache = BrokenCache;
    type Error = ToyError;

    fn depth(&self) -> usize {
        self.model.depth()
    }

    fn embed(&self, tokens: &Self::Tokens) -> Result<ToyHidden, ToyError> {
        let mut hidden = self.model.embed(tokens)?;
        if self.defect == Defect::SeesTheFuture {
            for row in &mut hidden {
                for position in 1..row.len() {
                    row[position - 1][0] += row[position][0];
                }
            }
        }
        Ok(hidden)
    }

    fn blocks(
        &self,
        hidden: ToyHidden,
        range: Range<usize>,
        cache: Option<&mut BrokenCache>,
    ) -> Result<ToyHidden, ToyError> {
        let cache = cache.filter(|_| self.defect != Defect::IgnoresTheCache);
        let after_an_exit = range.start > 0 && cache.is_none();
        let cache = cache.map(|cache| &mut cache.cache);
        let mut hidden = self.model.blocks(hidden, range, cache)?;
        if after_an_exit && self.defect == Defect::StumblesAtExits {
            hidden[0][0][0] += 1.0;
        }
        Ok(hidden)
    }

    fn logits(&self, hidden: &ToyHidden, exit: Exit) -> Result<ToyHidden, ToyError> {
        self.model.logits(hidden, exit)
    }
}

impl TrainModel for Broken {
    type Targets = Vec<Target>;
    type Loss = f64;

    fn prepare(&self, batch: &Batch) -> Result<(Vec<Vec<u32>>, Vec<Target>), ToyError> {
        let (tokens, mut targets) = self.model.prepare(batch)?;
        if self.defect == Defect::LearnsFromPadding {
            for (row, &length) in batch.lengths().iter().enumerate() {
                let padding = length..batch.seq();
                targets.extend(padding.map(|position| Target {
                    row,
                    position,
                    token: 0,
                }));
            }
        }
        Ok((tokens, targets))
    }

    fn loss(&self, hidden: &ToyHidden, exit: Exit, targets: &Vec<Target>) -> Result<f64, ToyError> {
        let loss = self.model.loss(hidden, exit, targets)?;
        let doubled = self.defect == Defect::DoublesTheLoss;
        Ok(if doubled { 2.0 * loss } else { loss })
    }

    fn target_scores(
        &self,
        hidden: &ToyHidden,
        exit: Exit,
        targets: &Vec<Target>,
    ) -> Result<TargetScores, ToyError> {
        self.model.target_scores(hidden, exit, targets)
    }

    fn weighted_sum(&self, terms: &[(f64, f64)]) -> f64 {
        self.model.weighted_sum(terms)
    }
}

impl DecodeModel for Broken {
    fn tokens(&self, rows: &[Vec<u32>]) -> Result<Vec<Vec<u32>>, ToyError> {
        self.model.tokens(rows)
    }

    fn empty_cache(&self, rows: usize, capacity: usize) -> Result<BrokenCache, ToyError> {
        // Room for what is not forgotten.
        let cache = self.model.empty_cache(rows, 4 * capacity)?;
        let forgets = self.defect != Defect::NeverForgets;
        Ok(BrokenCache { cache, forgets })
    }

    fn best_tokens(
        &self,
        hidden: &ToyHidden,
        positions: &[usize],
        exit: Exit,
    ) -> Result<Vec<u32>, ToyError> {
        self.model.best_tokens(hidden, positions, exit)
    }
}

impl Observed for Broken {
    fn logit_values(&self, logits: &ToyHidden) -> ToyHidden {
        logits.clone()
    }

    fn loss_value(&self, loss: &f64) -> f64 {
        *loss
    }

    fn concat(&self, parts: Vec<ToyHidden>) -> ToyHidden {
        self.model.concat(parts)
    }
}

#[test]
fn every_defect_breaks_its_law() {
    for (defect, law) in [
        (Defect::SeesTheFuture, "later tokens"),
        (Defect::IgnoresTheCache, "cached = uncached"),
        (Defect::NeverForgets, "truncated"),
        (Defect::DoublesTheLoss, "sorted loss"),
        (Defect::StumblesAtExits, "one pass"),
        (Defect::LearnsFromPadding, "padded batch"),
    ] {
        let broken = Broken {
            model: ToyModel::new(3, 5, 7, 1),
            defect,
        };
        let laws = Laws {
            model: &broken,
            rows: vec![vec![1, 2, 3, 4, 5], vec![5, 4, 3, 2, 6]],
            exits: Exits::new([1, 3]).unwrap(),
            tolerance: 1e-9,
        };
        let error = laws.check().unwrap_err().to_string();
        assert!(error.contains(law), "{defect:?}: {error}");
    }
}
