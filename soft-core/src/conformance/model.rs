//! The laws of a model: one forward primitive, its cache, its heads, its loss.
//!
//! What decoding must keep besides is in `decoding`.

use std::ops::Range;

use super::uncached::{best_token, single};
use super::{LawBroken, Observed, failed};
use crate::{Batch, Example, Exit, Exits, Head, KvCache, Past, RowRng, Score, Target, sorted_loss};

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
        staircases_catch_up(self.model, &self.rows, &self.exits, self.tolerance)?;
        self.copies_are_of_the_state_itself()?;
        self.heads_agree()?;
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
            waiting.push(self.run(LAW, &next, 0..first.depth(), &mut cache)?);
        }
        let waiting = self.model.concat(waiting).map_err(failed(LAW))?;
        // From one position of all rows after the other to one row after the other.
        let rows = self.rows.len();
        let order: Vec<usize> = (0..rows)
            .flat_map(|row| (0..seq).map(move |position| position * rows + row))
            .collect();
        let hidden = self.model.select(&waiting, &order).map_err(failed(LAW))?;
        let counts = vec![seq; rows];
        let past = Past {
            cache: &mut cache,
            counts: &counts,
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

    /// Rows of different prompt lengths in one batch, continued by different numbers of tokens.
    fn ragged_rows_are_each_row_alone(&self) -> Result<(), LawBroken> {
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

    /// Copying a state up = giving the same state to each deeper block in turn.
    fn copies_are_of_the_state_itself(&self) -> Result<(), LawBroken> {
        const LAW: &str = "a copied state = the state of the exit, given to every deeper block";
        let deeper = first_exit(&self.exits).depth()..self.exits.last().depth();
        let counts = vec![2; self.rows.len()];
        let counts = &counts[..];
        let expected = self.after_an_exit(LAW, |hidden, cache| {
            deeper.clone().try_for_each(|block| {
                let past = Past { cache, counts };
                let passed = self
                    .model
                    .blocks(hidden.clone(), block..block + 1, Some(past));
                passed.map(|_| ())
            })
        })?;
        let found = self.after_an_exit(LAW, |hidden, cache| {
            let past = Past { cache, counts };
            self.model.copy_up(hidden, deeper.clone(), past)
        })?;
        self.same(LAW, &expected, &found)
    }

    /// Logits of all but the first two positions, which left at the first exit: `fill` fills the deeper blocks.
    fn after_an_exit(
        &self,
        law: &'static str,
        fill: impl FnOnce(&M::Hidden, &mut M::Cache) -> Result<(), M::Error>,
    ) -> Result<Values, LawBroken> {
        let seq = self.rows[0].len();
        let mut cache = self
            .model
            .empty_cache(self.rows.len(), seq)
            .map_err(failed(law))?;
        let first = first_exit(&self.exits).depth();
        let hidden = self.run(law, &columns(&self.rows, 0..2), 0..first, &mut cache)?;
        fill(&hidden, &mut cache).map_err(failed(law))?;
        let rest = columns(&self.rows, 2..seq);
        self.cached(law, &rest, self.exits.last(), &mut cache)
    }

    /// What decoding reads of a state is what its logits say; a cut-down head has the same logits, some left out.
    fn heads_agree(&self) -> Result<(), LawBroken> {
        const LAW: &str = "best tokens, scores and logit rows = what the logits say";
        let kept = |token: usize| token % 2 == 1;
        let some: Vec<u32> = (0..self.model.vocab() as u32).skip(1).step_by(2).collect();
        let tokens = self.model.tokens(&self.rows[..1]).map_err(failed(LAW))?;
        for exit in self.exits.iter() {
            let hidden = self.model.embed(&tokens).map_err(failed(LAW))?;
            let hidden = self.model.blocks(hidden, 0..exit.depth(), None);
            let hidden = hidden.map_err(failed(LAW))?;
            let logits = self.model.logits(&hidden, exit).map_err(failed(LAW))?;
            let mut logits = self.model.logit_values(&logits).concat();
            self.head_agrees(LAW, (&hidden, &logits), Head::Full(exit))?;
            if some.is_empty() {
                continue;
            }
            for (token, logit) in logits.iter_mut().flat_map(|row| row.iter_mut().enumerate()) {
                if !kept(token) {
                    *logit = f64::NEG_INFINITY;
                }
            }
            let head = self.model.draft_head(exit, &some).map_err(failed(LAW))?;
            self.head_agrees(LAW, (&hidden, &logits), Head::Draft(&head))?;
        }
        Ok(())
    }

    fn head_agrees(
        &self,
        law: &'static str,
        (hidden, logits): (&M::Hidden, &[Vec<f64>]),
        head: Head<M::DraftHead>,
    ) -> Result<(), LawBroken> {
        let rows = self.model.logit_rows(hidden, head).map_err(failed(law))?;
        let best = self.model.best_tokens(hidden, head).map_err(failed(law))?;
        let scores = self.model.scores(hidden, head).map_err(failed(law))?;
        for (position, expected) in logits.iter().enumerate() {
            let place = || format!("position {position}");
            for (&expected, &found) in expected.iter().zip(&rows[position]) {
                if expected > f64::NEG_INFINITY || found > f32::NEG_INFINITY {
                    // Logit rows are of single precision.
                    let rounded = f64::from(expected as f32);
                    self.close_at(law, place, rounded, f64::from(found))?;
                }
            }
            let first = f64::from(best_token(expected));
            let (named, score) = (best[position], &scores[position]);
            for token in [named, score.token] {
                let behind = expected[first as usize] - expected[token as usize];
                if behind.is_nan() || behind >= self.tolerance || behind == 0.0 {
                    self.close_at(law, place, first, f64::from(token))?;
                }
            }
            let wanted = Score::of_logits(&single(expected));
            for (wanted, found) in [
                (wanted.probability, score.probability),
                (wanted.second, score.second),
                (wanted.entropy, score.entropy),
            ] {
                self.close_at(law, place, f64::from(wanted), f64::from(found))?;
            }
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

    /// Logits of the next tokens of every row at `exit`, through the cache.
    fn cached(
        &self,
        law: &'static str,
        rows: &[Vec<u32>],
        exit: Exit,
        cache: &mut M::Cache,
    ) -> Result<Values, LawBroken> {
        let hidden = self.run(law, rows, 0..exit.depth(), cache)?;
        let counts: Vec<usize> = rows.iter().map(Vec::len).collect();
        self.unpacked(law, &hidden, &counts, exit)
    }

    /// The next tokens of every row, packed, through the blocks in `range`.
    fn run(
        &self,
        law: &'static str,
        rows: &[Vec<u32>],
        range: Range<usize>,
        cache: &mut M::Cache,
    ) -> Result<M::Hidden, LawBroken> {
        let counts: Vec<usize> = rows.iter().map(Vec::len).collect();
        let tokens = self.model.tokens(&[rows.concat()]).map_err(failed(law))?;
        let hidden = self.model.embed(&tokens).map_err(failed(law))?;
        let past = Past {
            cache,
            counts: &counts,
        };
        self.model
            .blocks(hidden, range, Some(past))
            .map_err(failed(law))
    }

    /// Logits of packed states, row by row.
    fn unpacked(
        &self,
        law: &'static str,
        hidden: &M::Hidden,
        counts: &[usize],
        exit: Exit,
    ) -> Result<Values, LawBroken> {
        let logits = self.model.logits(hidden, exit).map_err(failed(law))?;
        let mut packed = self.model.logit_values(&logits).into_iter().flatten();
        let row = |&count: &usize| packed.by_ref().take(count).collect();
        Ok(counts.iter().map(row).collect())
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

/// States that wait at exits in any mixture, and go on with whatever comes deeper next, end as if nothing had waited.
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
    let mut rng = RowRng::new(rows.len() as u64);
    // What has run through so many segments, of each row, one state after the other.
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
                counts: &counts,
            };
            let hidden = model.concat(states);
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
        let hidden = model.concat(states).map_err(failed(LAW))?;
        let found = laws.unpacked(LAW, &hidden, &[tokens.len()], exits.last())?;
        let whole = laws.sub_model(LAW, std::slice::from_ref(tokens), exits.last())?;
        laws.same(LAW, &whole, &found)?;
    }
    Ok(())
}

fn columns(rows: &[Vec<u32>], range: Range<usize>) -> Vec<Vec<u32>> {
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
    use crate::toy::ToyModel;
    use crate::{DecodeModel, NestedModel};
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
        let past = Past {
            cache: &mut cache,
            counts: &[3],
        };
        assert!(model.blocks(hidden, 0..2, Some(past)).is_err());
    }
}
