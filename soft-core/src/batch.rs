//! Training rows and the batches they are packed into, as plain vectors.
//!
//! The one place where data and models meet: soft-data makes batches, a backend turns them into
//! tensors. Knows no tokenizer and no tensor.
//!
//! Rows are ragged: they lie one after the other without padding. A backend that computes
//! rectangles pads on the right ([`Batch::padded`]): under causal attention no token attends to
//! what comes after it, so padding needs no mask.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Rows that make no training example or batch.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BatchError {
    /// A row needs a token for every mark and the reverse.
    #[error("an example of {tokens} tokens has {marks} supervision marks: expected one per token")]
    MarksMismatch {
        /// Number of tokens.
        tokens: usize,
        /// Number of supervision marks.
        marks: usize,
    },
    /// Nothing precedes the first token, so nothing predicts it.
    #[error("the first token of an example is marked as supervised, but no position predicts it")]
    FirstTokenSupervised,
    /// A batch of no rows.
    #[error("a batch needs at least one example")]
    NoRows,
    /// A row of no tokens.
    #[error("example {row} of the batch has no tokens")]
    EmptyRow {
        /// Index of the row in the batch.
        row: usize,
    },
    /// A token that the model cannot embed.
    #[error(
        "row {row}, position {position}: token id {token} is outside the vocabulary of {vocab}"
    )]
    OutsideVocabulary {
        /// Row in the batch.
        row: usize,
        /// Position in the row.
        position: usize,
        /// The token id found.
        token: u32,
        /// Number of tokens the model knows.
        vocab: usize,
    },
}

/// One training row.
///
/// Where `supervised[i]` holds, token `i` is to be predicted from position `i - 1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    tokens: Vec<u32>,
    supervised: Vec<bool>,
}

impl Example {
    /// A row of `tokens`, of which those marked in `supervised` are learned.
    ///
    /// # Errors
    /// When the lengths differ, or the first token, which nothing predicts, is marked.
    pub fn new(tokens: Vec<u32>, supervised: Vec<bool>) -> Result<Self, BatchError> {
        if tokens.len() != supervised.len() {
            return Err(BatchError::MarksMismatch {
                tokens: tokens.len(),
                marks: supervised.len(),
            });
        }
        if supervised.first() == Some(&true) {
            return Err(BatchError::FirstTokenSupervised);
        }
        Ok(Self { tokens, supervised })
    }

    /// A row of plain text: every token but the first is learned (pre-training, perplexity).
    pub fn text(tokens: Vec<u32>) -> Self {
        let supervised = (0..tokens.len()).map(|position| position > 0).collect();
        Self { tokens, supervised }
    }

    /// The token ids.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// For every token, whether it is learned.
    pub fn supervised(&self) -> &[bool] {
        &self.supervised
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Number of tokens that are learned.
    pub fn supervised_tokens(&self) -> usize {
        self.supervised.iter().filter(|&&marked| marked).count()
    }
}

/// A position of a batch and the token it has to predict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Row of the batch.
    pub row: usize,
    /// Position whose hidden state makes the prediction.
    pub position: usize,
    /// The next token, which it should predict.
    pub token: u32,
}

/// Rows of tokens, one after the other, with the positions to learn from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    tokens: Vec<u32>,
    lengths: Vec<usize>,
    targets: Vec<Target>,
}

impl Batch {
    /// The rows of `examples`.
    ///
    /// # Errors
    /// When there is no example, or one without tokens.
    pub fn from_examples(examples: &[&Example]) -> Result<Self, BatchError> {
        if examples.is_empty() {
            return Err(BatchError::NoRows);
        }
        if let Some(row) = examples.iter().position(|example| example.is_empty()) {
            return Err(BatchError::EmptyRow { row });
        }
        let rows = examples.iter().enumerate();
        Ok(Self {
            tokens: examples
                .iter()
                .flat_map(|it| it.tokens())
                .copied()
                .collect(),
            lengths: examples.iter().map(|example| example.len()).collect(),
            targets: rows
                .flat_map(|(row, example)| row_targets(row, example))
                .collect(),
        })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.lengths.len()
    }

    /// Length of the longest row.
    pub fn seq(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    /// Token ids, row after row.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Length of each row.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Index in [`tokens`](Self::tokens) at which each row begins.
    pub fn starts(&self) -> Vec<usize> {
        let starts = self.lengths.iter().scan(0, |next, &length| {
            let start = *next;
            *next += length;
            Some(start)
        });
        starts.collect()
    }

    /// The tokens of each row.
    pub fn row_tokens(&self) -> impl Iterator<Item = &[u32]> {
        let rows = self.starts().into_iter().zip(&self.lengths);
        rows.map(|(start, &length)| &self.tokens[start..start + length])
    }

    /// The rows as a rectangle: each filled up to [`seq`](Self::seq) tokens with `pad`, one after
    /// the other.
    pub fn padded(&self, pad: u32) -> Vec<u32> {
        let seq = self.seq();
        let fill = |row: &[u32]| [row, &vec![pad; seq - row.len()]].concat();
        self.row_tokens().flat_map(fill).collect()
    }

    /// The targets, row after row.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Number of predictions to learn from.
    pub fn supervised_tokens(&self) -> usize {
        self.targets.len()
    }

    /// Refuses tokens that a model of `vocab` tokens does not know.
    ///
    /// # Errors
    /// [`BatchError::OutsideVocabulary`] naming the first such token and its place.
    pub fn check_vocabulary(&self, vocab: usize) -> Result<(), BatchError> {
        let outside = |&token: &u32| token as usize >= vocab;
        for (row, tokens) in self.row_tokens().enumerate() {
            if let Some(position) = tokens.iter().position(outside) {
                return Err(BatchError::OutsideVocabulary {
                    row,
                    position,
                    token: tokens[position],
                    vocab,
                });
            }
        }
        Ok(())
    }
}

fn row_targets(row: usize, example: &Example) -> impl Iterator<Item = Target> + '_ {
    let marked = example.tokens.iter().zip(&example.supervised).enumerate();
    marked
        .filter(|(_, (_, supervised))| **supervised)
        .map(move |(index, (&token, _))| Target {
            row,
            position: index - 1,
            token,
        })
}

/// An endless, resumable stream of micro-batches, epoch after epoch.
///
/// What it yields after [`seek`](BatchStream::seek) depends on the position alone, so that a
/// resumed run sees what the uninterrupted run would have seen.
pub trait BatchStream {
    /// Errors while reading.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The batch at the current position; moves on by one, into the next epoch after the last.
    ///
    /// # Errors
    /// When the rows cannot be read.
    fn next_batch(&mut self) -> Result<Batch, Self::Error>;

    /// Where the next batch is taken from.
    fn position(&self) -> StreamPosition;

    /// Continues from `position`.
    ///
    /// # Errors
    /// When there is no such position.
    fn seek(&mut self, position: StreamPosition) -> Result<(), Self::Error>;
}

/// A place in a [`BatchStream`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamPosition {
    /// How many times the data were gone through, from 0.
    pub epoch: u64,
    /// Index of the next batch within the epoch.
    pub batch: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_rows_and_shifts_targets_left() {
        let long = Example::new(vec![5, 6, 7], vec![false, false, true]).unwrap();
        let short = Example::new(vec![8, 9], vec![false, true]).unwrap();
        let batch = Batch::from_examples(&[&long, &short]).unwrap();
        assert_eq!((batch.rows(), batch.seq()), (2, 3));
        assert_eq!(batch.tokens(), [5, 6, 7, 8, 9]);
        assert_eq!(batch.padded(0), [5, 6, 7, 8, 9, 0]);
        assert_eq!(batch.starts(), [0, 3]);
        assert_eq!(batch.lengths(), [3, 2]);
        let targets: Vec<_> = batch
            .targets()
            .iter()
            .map(|t| (t.row, t.position, t.token))
            .collect();
        assert_eq!(targets, [(0, 1, 7), (1, 0, 9)]);
    }

    #[test]
    fn refuses_rows_that_cannot_be_learnt() {
        assert!(Example::new(vec![1], vec![]).is_err());
        assert!(Example::new(vec![1], vec![true]).is_err());
        assert_eq!(Batch::from_examples(&[]), Err(BatchError::NoRows));
        let empty = Example::text(vec![]);
        assert_eq!(
            Batch::from_examples(&[&empty]),
            Err(BatchError::EmptyRow { row: 0 })
        );
    }

    #[test]
    fn names_the_token_outside_the_vocabulary() {
        let batch = Batch::from_examples(&[&Example::text(vec![1, 2]), &Example::text(vec![1, 9])])
            .unwrap();
        assert!(batch.check_vocabulary(10).is_ok());
        let error = batch.check_vocabulary(9).unwrap_err();
        assert_eq!(
            error,
            BatchError::OutsideVocabulary {
                row: 1,
                position: 1,
                token: 9,
                vocab: 9
            }
        );
    }
}
