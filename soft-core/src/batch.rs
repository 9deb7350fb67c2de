//! Training rows and batches of them, as plain vectors.
//!
//! The interface between data and models: soft-data makes batches, and a backend turns them into
//! tensors. Independent of tokenizers and tensors.
//!
//! Rows are ragged, concatenated without padding. A backend that needs rectangles pads on the right
//! ([`Batch::padded`]); with causal attention this needs no mask.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// An invalid training example or batch.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BatchError {
    /// Tokens and supervision marks differ in number.
    #[error("an example of {tokens} tokens has {marks} supervision marks: expected one per token")]
    MarksMismatch {
        /// Number of tokens.
        tokens: usize,
        /// Number of supervision marks.
        marks: usize,
    },
    /// The first token is supervised, but no position predicts it.
    #[error("the first token of an example is marked as supervised, but no position predicts it")]
    FirstTokenSupervised,
    /// A batch without rows.
    #[error("a batch needs at least one example")]
    NoRows,
    /// A row without tokens.
    #[error("example {row} of the batch has no tokens")]
    EmptyRow {
        /// Index of the row in the batch.
        row: usize,
    },
    /// A token outside the model's vocabulary.
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
        /// Vocabulary size of the model.
        vocab: usize,
    },
}

/// One training row.
///
/// If `supervised[i]` is true, token `i` is predicted from position `i - 1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    tokens: Vec<u32>,
    supervised: Vec<bool>,
}

impl Example {
    /// A row of `tokens`, of which those marked in `supervised` are targets.
    ///
    /// # Errors
    /// When the lengths differ, or the first token is marked.
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

    /// A row of plain text: every token but the first is a target (pre-training, perplexity).
    pub fn text(tokens: Vec<u32>) -> Self {
        let supervised = (0..tokens.len()).map(|position| position > 0).collect();
        Self { tokens, supervised }
    }

    /// The token ids.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// For every token, whether it is a target.
    pub fn supervised(&self) -> &[bool] {
        &self.supervised
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Number of targets.
    pub fn supervised_tokens(&self) -> usize {
        self.supervised.iter().filter(|&&marked| marked).count()
    }
}

/// A position of a batch and its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Row of the batch.
    pub row: usize,
    /// Position whose hidden state predicts the token.
    pub position: usize,
    /// The next token.
    pub token: u32,
}

/// Concatenated rows of tokens, with the positions to train on.
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
    /// When there are no examples, or one has no tokens.
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

    /// Token ids, row by row.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Length of each row.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Index in [`tokens`](Self::tokens) at which each row starts.
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

    /// One row as a batch.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&self, row: usize) -> Self {
        let (start, length) = (self.starts()[row], self.lengths[row]);
        let targets = self.targets.iter().filter(|target| target.row == row);
        Self {
            tokens: self.tokens[start..start + length].to_vec(),
            lengths: vec![length],
            targets: targets.map(|target| Target { row: 0, ..*target }).collect(),
        }
    }

    /// The rows, each padded to [`seq`](Self::seq) tokens with `pad`, concatenated.
    pub fn padded(&self, pad: u32) -> Vec<u32> {
        let seq = self.seq();
        let fill = |row: &[u32]| [row, &vec![pad; seq - row.len()]].concat();
        self.row_tokens().flat_map(fill).collect()
    }

    /// The targets, row by row.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Number of targets.
    pub fn supervised_tokens(&self) -> usize {
        self.targets.len()
    }

    /// Checks that every token is in a vocabulary of `vocab` tokens.
    ///
    /// # Errors
    /// [`BatchError::OutsideVocabulary`] with the first such token and its place.
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
/// The batches after [`seek`](BatchStream::seek) depend only on the position, so that a resumed run
/// gets the same batches as an uninterrupted one.
pub trait BatchStream {
    /// Errors while reading.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Returns the current batch and advances, to the next epoch after the last one.
    ///
    /// # Errors
    /// When the rows cannot be read.
    fn next_batch(&mut self) -> Result<Batch, Self::Error>;

    /// The position of the next batch.
    fn position(&self) -> StreamPosition;

    /// Continues from `position`.
    ///
    /// # Errors
    /// When there is no such position.
    fn seek(&mut self, position: StreamPosition) -> Result<(), Self::Error>;
}

/// A position in a [`BatchStream`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamPosition {
    /// Number of completed passes over the data.
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
