//! Examples in shuffled batches, epoch after epoch.
//!
//! Knows lengths and orders; knows neither text nor models.

use serde::{Deserialize, Serialize};
use soft_core::{Batch, BatchStream, Example, StreamPosition};

use crate::DataError;
use crate::shuffle::{Purpose, shuffle};

/// How a [`Loader`] orders its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoaderConfig {
    /// Rows in a micro-batch. Default 4, which a laptop holds.
    pub batch_size: usize,
    /// Packing: a micro-batch takes as many rows as have at most this many tokens together, however
    /// many rows that are; a longer row comes alone. Default: `batch_size` rows, however long they
    /// are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_batch: Option<usize>,
    /// Seed of the order. Default 42, the paper's.
    pub seed: u64,
    /// Batches per window within which rows are sorted by length; 1 mixes lengths freely.
    /// Default 64.
    pub bucket_batches: usize,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self {
            batch_size: 4,
            tokens_per_batch: None,
            seed: 42,
            bucket_batches: 64,
        }
    }
}

impl LoaderConfig {
    /// Checks that batches and windows hold something.
    ///
    /// # Errors
    /// [`DataError::Setting`] naming the setting that is 0.
    pub fn validate(&self) -> Result<(), DataError> {
        let sizes = [
            ("batch_size", self.batch_size),
            ("bucket_batches", self.bucket_batches),
            ("tokens_per_batch", self.tokens_per_batch.unwrap_or(1)),
        ];
        match sizes.into_iter().find(|(_, size)| *size == 0) {
            None => Ok(()),
            Some((setting, size)) => Err(DataError::Setting {
                setting,
                expected: "at least 1",
                found: size.to_string(),
            }),
        }
    }
}

/// An endless stream of shuffled batches.
///
/// An epoch's batches are a pure function of the seed and the epoch: all rows are shuffled, cut
/// into windows of some batches, sorted by length within each window so that rows of one batch need
/// little padding, and the batches are shuffled. Packed or not, a row's tokens see their own row
/// alone. Every row comes once an epoch; the last, smaller batch is kept. Batches are re-drawn each
/// epoch.
#[derive(Clone, Debug)]
pub struct Loader {
    examples: Vec<Example>,
    config: LoaderConfig,
    position: StreamPosition,
    /// The rows of each batch of the epoch at `position`.
    plan: Vec<Vec<usize>>,
}

impl Loader {
    /// A stream over `examples` from the start of epoch 0.
    ///
    /// # Errors
    /// When there are no examples, one is empty, or `config` is out of range.
    pub fn new(examples: Vec<Example>, config: LoaderConfig) -> Result<Self, DataError> {
        config.validate()?;
        if examples.is_empty() {
            return Err(DataError::NoExamples);
        }
        if let Some(row) = examples.iter().position(Example::is_empty) {
            return Err(soft_core::BatchError::EmptyRow { row }.into());
        }
        let mut loader = Self {
            examples,
            config,
            position: StreamPosition::default(),
            plan: Vec::new(),
        };
        loader.plan = loader.plan_of(0);
        Ok(loader)
    }

    /// The rows, in the order they were given.
    pub fn examples(&self) -> &[Example] {
        &self.examples
    }

    /// How the rows are ordered.
    pub fn config(&self) -> &LoaderConfig {
        &self.config
    }

    /// Number of batches in the current epoch; the same in every epoch unless rows are packed.
    pub fn batches_per_epoch(&self) -> u64 {
        self.plan.len() as u64
    }

    /// Indices into [`examples`](Loader::examples) of the rows of the next batch.
    pub fn next_rows(&self) -> &[usize] {
        self.plan
            .get(self.position.batch as usize)
            .map_or(&[], Vec::as_slice)
    }

    fn plan_of(&self, epoch: u64) -> Vec<Vec<usize>> {
        let LoaderConfig {
            batch_size,
            tokens_per_batch,
            seed,
            bucket_batches,
        } = self.config;
        let mut rows: Vec<_> = (0..self.examples.len()).collect();
        shuffle(&mut rows, Purpose::Rows, seed, epoch);
        let mut plan = Vec::with_capacity(rows.len().div_ceil(batch_size));
        for window in rows.chunks_mut(batch_size.saturating_mul(bucket_batches)) {
            // Stable, so that rows of one length stay shuffled.
            window.sort_by_key(|&row| self.examples[row].len());
            match tokens_per_batch {
                None => plan.extend(window.chunks(batch_size).map(<[usize]>::to_vec)),
                Some(most) => plan.extend(self.packed(window, most)),
            }
        }
        shuffle(&mut plan, Purpose::Batches, seed, epoch);
        plan
    }
}

impl Loader {
    /// Consecutive rows, each time as many as have at most `most` tokens together, and at least
    /// one.
    fn packed(&self, rows: &[usize], most: usize) -> Vec<Vec<usize>> {
        let mut packs: Vec<Vec<usize>> = Vec::new();
        let mut room = 0;
        for &row in rows {
            let length = self.examples[row].len();
            match packs.last_mut() {
                Some(pack) if length <= room => {
                    pack.push(row);
                    room -= length;
                }
                _ => {
                    packs.push(vec![row]);
                    room = most.saturating_sub(length);
                }
            }
        }
        packs
    }
}

impl BatchStream for Loader {
    type Error = DataError;

    fn next_batch(&mut self) -> Result<Batch, DataError> {
        let rows: Vec<_> = self
            .next_rows()
            .iter()
            .map(|&row| &self.examples[row])
            .collect();
        let batch = Batch::from_examples(&rows)?;
        self.position.batch += 1;
        if self.position.batch == self.batches_per_epoch() {
            self.position = StreamPosition {
                epoch: self.position.epoch + 1,
                batch: 0,
            };
            self.plan = self.plan_of(self.position.epoch);
        }
        Ok(batch)
    }

    fn position(&self) -> StreamPosition {
        self.position
    }

    fn seek(&mut self, position: StreamPosition) -> Result<(), DataError> {
        let plan = self.plan_of(position.epoch);
        let batches_per_epoch = plan.len() as u64;
        if position.batch >= batches_per_epoch {
            return Err(DataError::NoSuchPosition {
                position,
                batches_per_epoch,
            });
        }
        (self.plan, self.position) = (plan, position);
        Ok(())
    }
}

/// Every example once, shortest first, in batches of `batch_size`: for validation.
///
/// # Errors
/// When there are no examples, one is empty, or `batch_size` is 0.
pub fn ordered_batches(examples: &[Example], batch_size: usize) -> Result<Vec<Batch>, DataError> {
    LoaderConfig {
        batch_size,
        ..LoaderConfig::default()
    }
    .validate()?;
    if examples.is_empty() {
        return Err(DataError::NoExamples);
    }
    let mut rows: Vec<_> = examples.iter().collect();
    rows.sort_by_key(|example| example.len());
    rows.chunks(batch_size)
        .map(|rows| Ok(Batch::from_examples(rows)?))
        .collect()
}

#[cfg(test)]
mod tests;
