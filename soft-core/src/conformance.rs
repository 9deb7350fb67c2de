//! The laws every backend must obey, as functions that its tests call.
//!
//! A law is stated once and holds for every implementation of the traits. Each function returns
//! [`LawBroken`] with what differed and by how much. The laws of decoding are not here yet.

use thiserror::Error;

use crate::{Batch, DecodeModel, Example, Exit, Exits, KvCache, Target, TrainModel, sorted_loss};

/// What a law needs to see of a model: inputs made, outputs read.
pub trait Observed: TrainModel + DecodeModel {
    /// Logits as numbers, `[batch][seq][vocab]`.
    fn logit_values(&self, logits: &Self::Logits) -> Vec<Vec<Vec<f64>>>;

    /// A loss as a number.
    fn loss_value(&self, loss: &Self::Loss) -> f64;

    /// Hidden states joined along the sequence.
    fn concat(&self, parts: Vec<Self::Hidden>) -> Self::Hidden;
}

/// A law that a model does not obey.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LawBroken {
    /// The model failed where the law wants an answer.
    #[error("{law}: {source}")]
    Failed {
        /// The law.
        law: &'static str,
        /// What the model said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Two numbers that should be equal are not.
    #[error("{law}: {place}: expected {expected}, found {found}")]
    Differs {
        /// The law.
        law: &'static str,
        /// Where.
        place: String,
        /// What the law wants.
        expected: f64,
        /// What the model computed.
        found: f64,
    },
}

/// One model under test, a batch of equally long rows, and how far rounding may go.
#[derive(Debug)]
pub struct Laws<'a, M> {
    /// The model under test.
    pub model: &'a M,
    /// At least one row; all of one length, at least 4.
    pub rows: Vec<Vec<u32>>,
    /// Exits of the model.
    pub exits: Exits,
    /// Largest absolute difference that counts as rounding.
    pub tolerance: f64,
}

impl<M: Observed> Laws<'_, M> {
    /// All laws in turn.
    ///
    /// # Errors
    /// The first law that is broken.
    pub fn check(&self) -> Result<(), LawBroken> {
        self.exits_share_one_pass()?;
        self.later_tokens_change_nothing()?;
        self.cached_is_uncached()?;
        self.late_blocks_catch_up()?;
        self.forgotten_positions_can_be_rewritten()?;
        self.ragged_rows_are_each_row_alone()?;
        self.sorted_loss_is_the_mean()?;
        self.padding_changes_nothing()
    }

    /// One pass that stops at every exit computes what each sub-model computes alone.
    fn exits_share_one_pass(&self) -> Result<(), LawBroken> {
        const LAW: &str = "one pass through all exits = each sub-model alone";
        let tokens = self.model.tokens(&self.rows).map_err(failed(LAW))?;
        let mut shared = Vec::new();
        let visit = self
            .model
            .visit_exits(&tokens, &self.exits, |exit, hidden| {
                shared.push((exit, self.model.logits(hidden, exit)?));
                Ok(())
            });
        visit.map_err(failed(LAW))?;
        for (exit, logits) in shared {
            let alone = self.sub_model(LAW, &self.rows, exit)?;
            self.same(LAW, &alone, &self.model.logit_values(&logits))?;
        }
        Ok(())
    }

    /// A position does not see what comes after it.
    fn later_tokens_change_nothing(&self) -> Result<(), LawBroken> {
        const LAW: &str = "later tokens change nothing earlier";
        let seq = self.rows[0].len();
        let mut changed = self.rows.clone();
        for (row, other) in changed.iter_mut().zip(self.rows.iter().rev()) {
            row[seq - 1] = other[0];
        }
        let exit = self.exits.last();
        let before = self.sub_model(LAW, &self.rows, exit)?;
        let after = self.sub_model(LAW, &changed, exit)?;
        self.same(
            LAW,
            &truncated(&before, seq - 1),
            &truncated(&after, seq - 1),
        )
    }

    /// Feeding positions in pieces through a cache = the whole sequence at once.
    fn cached_is_uncached(&self) -> Result<(), LawBroken> {
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

    /// Tokens that left at the first exit wait there; deeper blocks take them all along later.
    fn late_blocks_catch_up(&self) -> Result<(), LawBroken> {
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
            let tokens = self.model.tokens(&next).map_err(failed(LAW))?;
            let hidden = self.model.embed(&tokens).map_err(failed(LAW))?;
            let hidden = self
                .model
                .blocks(hidden, 0..first.depth(), Some(&mut cache));
            waiting.push(hidden.map_err(failed(LAW))?);
        }
        let hidden = self.model.concat(waiting);
        let deep = first.depth()..last.depth();
        let hidden = self
            .model
            .blocks(hidden, deep, Some(&mut cache))
            .map_err(failed(LAW))?;
        let found = self.model.logits(&hidden, last).map_err(failed(LAW))?;
        let whole = self.sub_model(LAW, &self.rows, last)?;
        self.same(LAW, &whole, &self.model.logit_values(&found))
    }

    /// After truncation the cache is as if the forgotten positions had never been.
    fn forgotten_positions_can_be_rewritten(&self) -> Result<(), LawBroken> {
        const LAW: &str = "truncated and rewritten = written once";
        let exit = self.exits.last();
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

    /// Rows of different prompt lengths in one batch: padded prefill, cut back, continued.
    fn ragged_rows_are_each_row_alone(&self) -> Result<(), LawBroken> {
        const LAW: &str = "a batch of ragged rows = each row alone";
        let exit = self.exits.last();
        let seq = self.rows[0].len();
        let prompt = |row: usize| seq - 2 - row % (seq - 2);
        let mut cache = self
            .model
            .empty_cache(self.rows.len(), seq)
            .map_err(failed(LAW))?;
        self.cached(LAW, &columns(&self.rows, 0..seq - 2), exit, &mut cache)?;
        for row in 0..self.rows.len() {
            cache.truncate(row, prompt(row));
        }
        let next: Vec<_> = self
            .rows
            .iter()
            .enumerate()
            .map(|(row, tokens)| tokens[prompt(row)..prompt(row) + 2].to_vec())
            .collect();
        let found = self.cached(LAW, &next, exit, &mut cache)?;
        for (row, tokens) in self.rows.iter().enumerate() {
            let alone = self.sub_model(LAW, &[tokens[..prompt(row) + 2].to_vec()], exit)?;
            let expected = vec![alone[0][prompt(row)..].to_vec()];
            self.same(LAW, &expected, &found[row..=row])?;
        }
        Ok(())
    }

    /// The sorted loss is the mean of the sub-models' losses (equation 1), each computed here from
    /// the logits of that sub-model alone.
    fn sorted_loss_is_the_mean(&self) -> Result<(), LawBroken> {
        const LAW: &str = "sorted loss = mean of the sub-models' losses";
        let batch = self.batch(LAW, &self.rows)?;
        let weights = vec![1.0 / self.exits.len() as f64; self.exits.len()];
        let sorted = self.total_loss(LAW, &batch, &self.exits, &weights)?;
        let mut mean = 0.0;
        for exit in self.exits.iter() {
            let logits = self.sub_model(LAW, &self.rows, exit)?;
            mean += mean_cross_entropy(&logits, batch.targets()) / self.exits.len() as f64;
        }
        self.close(LAW, "loss".into(), mean, sorted)
    }

    /// The loss of a padded batch is the sum of its rows' losses.
    fn padding_changes_nothing(&self) -> Result<(), LawBroken> {
        const LAW: &str = "loss of a padded batch = sum over its rows";
        let seq = self.rows[0].len();
        let ragged: Vec<_> = self
            .rows
            .iter()
            .enumerate()
            .map(|(row, tokens)| tokens[..seq - row % (seq - 2)].to_vec())
            .collect();
        let only_last = Exits::new([self.exits.last().depth()]).map_err(failed(LAW))?;
        let loss = |rows: &[Vec<u32>]| {
            let batch = self.batch(LAW, rows)?;
            let mean = self.total_loss(LAW, &batch, &only_last, &[1.0])?;
            Ok(mean * batch.supervised_tokens() as f64)
        };
        let mut alone = 0.0;
        for row in &ragged {
            alone += loss(std::slice::from_ref(row))?;
        }
        self.close(LAW, "loss".into(), alone, loss(&ragged)?)
    }

    fn batch(&self, law: &'static str, rows: &[Vec<u32>]) -> Result<Batch, LawBroken> {
        let examples: Vec<_> = rows.iter().cloned().map(Example::text).collect();
        Batch::from_examples(&examples.iter().collect::<Vec<_>>(), 0).map_err(failed(law))
    }

    fn total_loss(
        &self,
        law: &'static str,
        batch: &Batch,
        exits: &Exits,
        weights: &[f64],
    ) -> Result<f64, LawBroken> {
        let (tokens, targets) = self.model.prepare(batch).map_err(failed(law))?;
        let normaliser = batch.supervised_tokens() as f64;
        let output = sorted_loss(self.model, (&tokens, &targets), exits, weights, normaliser);
        Ok(self.model.loss_value(&output.map_err(failed(law))?.total))
    }

    fn sub_model(
        &self,
        law: &'static str,
        rows: &[Vec<u32>],
        exit: Exit,
    ) -> Result<Values, LawBroken> {
        let tokens = self.model.tokens(rows).map_err(failed(law))?;
        let logits = self.model.sub_model(&tokens, exit);
        Ok(self.model.logit_values(&logits.map_err(failed(law))?))
    }

    fn cached(
        &self,
        law: &'static str,
        rows: &[Vec<u32>],
        exit: Exit,
        cache: &mut M::Cache,
    ) -> Result<Values, LawBroken> {
        let tokens = self.model.tokens(rows).map_err(failed(law))?;
        let hidden = self.model.embed(&tokens).map_err(failed(law))?;
        let hidden = self
            .model
            .blocks(hidden, 0..exit.depth(), Some(cache))
            .map_err(failed(law))?;
        let logits = self.model.logits(&hidden, exit).map_err(failed(law))?;
        Ok(self.model.logit_values(&logits))
    }

    fn same(
        &self,
        law: &'static str,
        expected: &[Vec<Vec<f64>>],
        found: &[Vec<Vec<f64>>],
    ) -> Result<(), LawBroken> {
        self.close(
            law,
            "number of rows".into(),
            expected.len() as f64,
            found.len() as f64,
        )?;
        for (row, (expected, found)) in expected.iter().zip(found).enumerate() {
            self.close(
                law,
                format!("positions of row {row}"),
                expected.len() as f64,
                found.len() as f64,
            )?;
            for (position, (expected, found)) in expected.iter().zip(found).enumerate() {
                for (token, (&expected, &found)) in expected.iter().zip(found).enumerate() {
                    let place = || format!("row {row}, position {position}, token {token}");
                    self.close_at(law, place, expected, found)?;
                }
            }
        }
        Ok(())
    }

    fn close(
        &self,
        law: &'static str,
        place: String,
        expected: f64,
        found: f64,
    ) -> Result<(), LawBroken> {
        self.close_at(law, || place, expected, found)
    }

    fn close_at(
        &self,
        law: &'static str,
        place: impl FnOnce() -> String,
        expected: f64,
        found: f64,
    ) -> Result<(), LawBroken> {
        // Written so that NaN is a difference.
        if (expected - found).abs() <= self.tolerance {
            return Ok(());
        }
        Err(LawBroken::Differs {
            law,
            place: place(),
            expected,
            found,
        })
    }
}

/// Mean of −log softmax at the targets, in nats.
fn mean_cross_entropy(logits: &[Vec<Vec<f64>>], targets: &[Target]) -> f64 {
    let nats = |target: &Target| {
        let scores = &logits[target.row][target.position];
        let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - highest).exp()).sum();
        highest + sum.ln() - scores[target.token as usize]
    };
    targets.iter().map(nats).sum::<f64>() / targets.len() as f64
}

type Values = Vec<Vec<Vec<f64>>>;

fn failed<E: std::error::Error + Send + Sync + 'static>(
    law: &'static str,
) -> impl Fn(E) -> LawBroken {
    move |source| LawBroken::Failed {
        law,
        source: Box::new(source),
    }
}

fn columns(rows: &[Vec<u32>], range: std::ops::Range<usize>) -> Vec<Vec<u32>> {
    rows.iter().map(|row| row[range.clone()].to_vec()).collect()
}

fn append(rows: &mut [Vec<Vec<f64>>], more: Values) {
    for (row, more) in rows.iter_mut().zip(more) {
        row.extend(more);
    }
}

fn truncated(values: &[Vec<Vec<f64>>], positions: usize) -> Values {
    values.iter().map(|row| row[..positions].to_vec()).collect()
}

fn first_exit(exits: &Exits) -> Exit {
    exits.iter().next().unwrap_or_else(|| exits.last())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NestedModel;
    use crate::toy::ToyModel;
    use proptest::prelude::*;

    const VOCAB: u32 = 7;

    proptest! {
        #[test]
        fn toy_model_obeys_the_laws(
            seed: u64,
            depth in 2usize..6,
            rows in (1usize..5, 4usize..9).prop_flat_map(|(rows, seq)| {
                proptest::collection::vec(proptest::collection::vec(0..VOCAB, seq), rows)
            }),
            first in 1usize..3,
        ) {
            let model = ToyModel::new(depth, 5, VOCAB as usize, seed);
            let exits = Exits::every(first, first..=depth).unwrap();
            let laws = Laws { model: &model, rows, exits, tolerance: 1e-9 };
            laws.check().unwrap();
        }
    }

    #[test]
    fn a_full_cache_is_an_error() {
        let model = ToyModel::new(2, 5, VOCAB as usize, 1);
        let mut cache = model.empty_cache(1, 2).unwrap();
        let hidden = model.embed(&vec![vec![1, 2, 3]]).unwrap();
        assert!(model.blocks(hidden, 0..2, Some(&mut cache)).is_err());
    }
}
