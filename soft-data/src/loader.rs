//! Shuffled batches of examples, epoch after epoch.

use serde::{Deserialize, Serialize};
use soft_core::{Batch, BatchStream, Example, StreamPosition};

use crate::DataError;
use crate::shuffle::{Purpose, shuffle};

/// How a [`Loader`] forms and orders batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoaderConfig {
    /// Rows per micro-batch. Default 4, which fits on a laptop.
    pub batch_size: usize,
    /// Packing: the maximum number of tokens per micro-batch, whatever the number of rows; a longer
    /// row forms a batch by itself. Default: off, `batch_size` rows of any length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_batch: Option<usize>,
    /// Seed of the order. Default 42, as in the paper.
    pub seed: u64,
    /// Rows are sorted by length within windows of this many batches of `batch_size` rows; 1 mixes
    /// lengths freely. Default 64.
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
    /// Checks that all sizes are at least 1.
    ///
    /// # Errors
    /// [`DataError::Setting`] for a size of 0.
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
/// The batches of an epoch are a function of the seed and the epoch: rows are shuffled, divided
/// into windows of several batches, sorted by length within each window to reduce padding, and cut
/// into batches, which are shuffled. Every row occurs once per epoch; incomplete batches are kept.
/// With and without packing, tokens attend only to their own row.
#[derive(Clone, Debug)]
pub struct Loader {
    examples: Vec<Example>,
    config: LoaderConfig,
    position: StreamPosition,
    /// Row indices of each batch of the current epoch.
    plan: Vec<Vec<usize>>,
}

impl Loader {
    /// A stream over `examples` from the start of epoch 0.
    ///
    /// # Errors
    /// When there are no examples, an example is empty, or `config` is out of range.
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

    /// The examples in their original order.
    pub fn examples(&self) -> &[Example] {
        &self.examples
    }

    /// The configuration.
    pub fn config(&self) -> &LoaderConfig {
        &self.config
    }

    /// Number of batches in the current epoch; constant across epochs unless rows are packed.
    pub fn batches_per_epoch(&self) -> u64 {
        self.plan.len() as u64
    }

    /// Indices into [`examples`](Loader::examples) of the rows in the next batch.
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
            // A stable sort keeps rows of equal length shuffled.
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
    /// Groups consecutive rows into batches of at most `most` tokens, or of a single longer row.
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

/// All examples once, shortest first, in batches of `batch_size`; for validation.
///
/// # Errors
/// When there are no examples, an example is empty, or `batch_size` is 0.
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
