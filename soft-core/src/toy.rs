//! A nested language model in plain `f64` loops, for tests and documentation.
//!
//! Small enough to check by hand, but with all features that the laws test: blocks that use earlier
//! positions through a cache, a final norm, a tied head and, on request, blocks of single exits.
//! Block l maps x_t to x_t + tanh(W_l · (x_t + mean of x_s over s ≤ t)); its "keys and values" are
//! the x_s.

mod decode;

pub use decode::ToyDraftHead;

use std::ops::Range;

use thiserror::Error;

use crate::batch::BatchError;
use crate::batch::{Batch, Target};
use crate::conformance::Observed;
use crate::exit::Exit;
use crate::model::cache_lengths::CacheError;
use crate::model::decode_model::DecodeModel;
use crate::model::nested::{BatchModel, NestedModel, Past, TargetScore, TrainModel};
use crate::random::SplitMix64;

/// Errors of the toy model.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ToyError {
    /// Blocks outside the model.
    #[error("blocks {range:?} of a model of {depth} blocks")]
    NoSuchBlocks {
        /// The requested blocks.
        range: Range<usize>,
        /// The model's depth.
        depth: usize,
    },
    /// A pass that does not fit its cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Hidden states of several rows instead of packed ones.
    #[error("{rows} rows of states: packed states are one")]
    NotPacked {
        /// Number of rows.
        rows: usize,
    },
    /// A batch that does not fit the model.
    #[error(transparent)]
    Batch(#[from] BatchError),
}

/// Hidden states of one batch: `[batch][seq][d_model]`.
pub type ToyHidden = Vec<Vec<Vec<f64>>>;

/// A random nested model of a few blocks.
#[derive(Clone, Debug)]
pub struct ToyModel {
    embedding: Vec<Vec<f64>>,
    head: Vec<Vec<f64>>,
    /// The shared blocks, then those of exits.
    blocks: Vec<Vec<Vec<f64>>>,
    /// The exits with their own block, in the order of these.
    with_blocks: Vec<Exit>,
}

impl ToyModel {
    /// A model with weights drawn from `seed`, uniform in [-1, 1).
    pub fn new(depth: usize, d_model: usize, vocab: usize, seed: u64) -> Self {
        let mut random = SplitMix64::new(seed);
        let mut matrix = |rows: usize| -> Vec<Vec<f64>> {
            let row = |random: &mut SplitMix64| (0..d_model).map(|_| uniform(random)).collect();
            (0..rows).map(|_| row(&mut random)).collect()
        };
        let embedding = matrix(vocab);
        let blocks = (0..depth).map(|_| matrix(d_model)).collect();
        let head = embedding.clone();
        Self {
            embedding,
            head,
            blocks,
            with_blocks: Vec::new(),
        }
    }

    /// Gives these exits blocks of their own, copies of the last block. The exit before the last
    /// block is then the full model.
    #[must_use]
    pub fn with_exit_blocks(mut self, exits: impl IntoIterator<Item = Exit>) -> Self {
        self.blocks.truncate(self.depth());
        self.with_blocks = exits.into_iter().collect();
        let last = self.blocks[self.blocks.len() - 1].clone();
        self.blocks
            .extend(self.with_blocks.iter().map(|_| last.clone()));
        self
    }

    /// Rotates the head by one token, so that a state close to a token's embedding gives the next
    /// id. Texts then vary, whereas those of a tied head soon repeat one token.
    #[must_use]
    pub fn restless(mut self) -> Self {
        self.head.rotate_right(1);
        self
    }

    fn check_blocks(&self, range: &Range<usize>) -> Result<(), ToyError> {
        let depth = self.depth();
        let of_an_exit = range.start >= depth && range.len() <= 1;
        if range.end <= depth || of_an_exit && range.end <= self.blocks.len() {
            return Ok(());
        }
        Err(ToyError::NoSuchBlocks {
            range: range.clone(),
            depth,
        })
    }

    fn run_block(&self, block: usize, states: &mut [Vec<f64>], seen: &mut Vec<Vec<f64>>) {
        for state in states {
            *state = toy_block(&self.blocks[block], state, seen);
        }
    }

    fn state_logits(&self, state: &[f64]) -> Vec<f64> {
        let mean_square = dot(state, state) / state.len() as f64;
        let scale = 1.0 / (mean_square + 1e-6).sqrt();
        let rows = self.head.iter();
        rows.map(|row| dot(row, state) * scale).collect()
    }
}

/// Uniform in [-1, 1).
fn uniform(random: &mut SplitMix64) -> f64 {
    (random.next_u64() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

/// Block inputs of earlier positions: `[block][row][position][d_model]`.
pub type ToyStore = Vec<Vec<Vec<Vec<f64>>>>;

impl NestedModel for ToyModel {
    type Tokens = Vec<Vec<u32>>;
    type Hidden = ToyHidden;
    type Logits = Vec<Vec<Vec<f64>>>;
    type KvStore = ToyStore;
    type Error = ToyError;

    fn depth(&self) -> usize {
        self.blocks.len() - self.with_blocks.len()
    }

    fn exit_blocks(&self) -> usize {
        self.with_blocks.len()
    }

    fn exit_block(&self, exit: Exit) -> Option<usize> {
        let index = self.with_blocks.iter().position(|other| *other == exit)?;
        Some(self.depth() + index)
    }

    fn embed(&self, tokens: &Self::Tokens) -> Result<ToyHidden, ToyError> {
        let embed = |&token: &u32| self.embedding[token as usize].clone();
        Ok(tokens
            .iter()
            .map(|row| row.iter().map(embed).collect())
            .collect())
    }

    fn blocks(
        &self,
        mut hidden: ToyHidden,
        range: Range<usize>,
        past: Option<Past<ToyStore>>,
    ) -> Result<ToyHidden, ToyError> {
        self.check_blocks(&range)?;
        let Some(Past {
            cache,
            query_lens: counts,
        }) = past
        else {
            for states in &mut hidden {
                for block in range.clone() {
                    let mut seen = Vec::new();
                    self.run_block(block, states, &mut seen);
                }
            }
            return Ok(hidden);
        };
        let [states] = hidden.as_slice() else {
            let rows = hidden.len();
            return Err(ToyError::NotPacked { rows });
        };
        let (starts, store) = cache.append(&range, counts, states.len())?;
        let mut from = 0;
        for (row, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let states = &mut hidden[0][from..from + count];
            for block in range.clone() {
                let seen = &mut store[block][row];
                seen.truncate(starts[row]);
                self.run_block(block, states, seen);
            }
            from += count;
        }
        Ok(hidden)
    }

    fn logits(&self, hidden: &ToyHidden, _exit: Exit) -> Result<Self::Logits, ToyError> {
        let row = |row: &Vec<Vec<f64>>| row.iter().map(|state| self.state_logits(state)).collect();
        Ok(hidden.iter().map(row).collect())
    }
}

/// One block at one position, whose input is appended to `seen`.
fn toy_block(weight: &[Vec<f64>], state: &[f64], seen: &mut Vec<Vec<f64>>) -> Vec<f64> {
    seen.push(state.to_vec());
    let context = |index: usize| {
        let sum: f64 = seen.iter().map(|input| input[index]).sum();
        state[index] + sum / seen.len() as f64
    };
    let mixed: Vec<f64> = (0..state.len()).map(context).collect();
    let update = weight.iter().map(|row| dot(row, &mixed).tanh());
    state
        .iter()
        .zip(update)
        .map(|(x, update)| x + update)
        .collect()
}

fn nats(logits: &[f64], token: u32) -> f64 {
    let normalizer: f64 = logits.iter().map(|logit| logit.exp()).sum();
    normalizer.ln() - logits[token as usize]
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl TrainModel for ToyModel {
    type Targets = Vec<Target>;
    type Loss = f64;

    fn loss(
        &self,
        hidden: &ToyHidden,
        exit: Exit,
        targets: &Self::Targets,
    ) -> Result<f64, ToyError> {
        let scores = self.target_scores(hidden, exit, targets)?;
        Ok(scores.iter().map(|score| score.nats).sum())
    }

    fn weighted_sum(&self, terms: &[(f64, f64)]) -> Result<f64, ToyError> {
        Ok(terms.iter().map(|(weight, loss)| weight * loss).sum())
    }
}

impl BatchModel for ToyModel {
    fn prepare(&self, batch: &Batch) -> Result<(Self::Tokens, Self::Targets), ToyError> {
        batch.check_vocabulary(self.vocab())?;
        let rows = batch.row_tokens().map(<[u32]>::to_vec);
        Ok((rows.collect(), batch.targets().to_vec()))
    }

    fn target_scores(
        &self,
        hidden: &ToyHidden,
        exit: Exit,
        targets: &Self::Targets,
    ) -> Result<Vec<TargetScore>, ToyError> {
        let logits = self.logits(hidden, exit)?;
        let score = |target: &Target| {
            let row = &logits[target.row][target.position];
            TargetScore {
                nats: nats(row, target.token),
                correct: best_token(row) == target.token,
            }
        };
        Ok(targets.iter().map(score).collect())
    }
}

impl Observed for ToyModel {
    fn logit_values(&self, logits: &ToyHidden) -> Result<ToyHidden, ToyError> {
        Ok(logits.clone())
    }

    fn loss_value(&self, loss: &f64) -> Result<f64, ToyError> {
        Ok(*loss)
    }
}

/// Index of the highest score, the first of equal ones.
fn best_token(scores: &[f64]) -> u32 {
    let higher = |best: usize, next: usize| {
        if scores[next] > scores[best] {
            next
        } else {
            best
        }
    };
    (0..scores.len()).reduce(higher).unwrap_or(0) as u32
}
