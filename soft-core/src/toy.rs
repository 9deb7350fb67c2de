//! A nested language model in plain `f64` loops, for tests and documentation.
//!
//! Small enough to check by hand, yet with everything that makes laws worth testing: blocks that
//! look back over earlier positions through a cache, a final norm, a tied head. Block l maps
//! x_t to x_t + tanh(W_l · (x_t + mean of x_s over s ≤ t)); its "keys and values" are the x_s.

use std::ops::Range;

use thiserror::Error;

use crate::conformance::Observed;
use crate::{
    Batch, BatchError, DecodeModel, Exit, KvCache, NestedModel, Target, TargetScores, TrainModel,
};

/// What the toy model refuses.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ToyError {
    /// Blocks that the model does not have.
    #[error("blocks {range:?} of a model of {depth} blocks")]
    NoSuchBlocks {
        /// The blocks asked for.
        range: Range<usize>,
        /// The model's depth.
        depth: usize,
    },
    /// More positions than the cache can hold.
    #[error("row {row} of the cache is full: it holds {capacity} positions")]
    CacheFull {
        /// The row at fault.
        row: usize,
        /// Most positions a row can hold.
        capacity: usize,
    },
    /// A batch that does not fit.
    #[error(transparent)]
    Batch(#[from] BatchError),
}

/// Hidden states of one batch: `[batch][seq][d_model]`.
pub type ToyHidden = Vec<Vec<Vec<f64>>>;

/// A random nested model of a few blocks.
#[derive(Clone, Debug)]
pub struct ToyModel {
    embedding: Vec<Vec<f64>>,
    blocks: Vec<Vec<Vec<f64>>>,
}

impl ToyModel {
    /// A model with weights drawn from `seed`, uniform in [-1, 1].
    pub fn new(depth: usize, d_model: usize, vocab: usize, seed: u64) -> Self {
        let mut state = seed;
        let mut matrix = |rows: usize| -> Vec<Vec<f64>> {
            let row = |state: &mut u64| (0..d_model).map(|_| uniform(state)).collect();
            (0..rows).map(|_| row(&mut state)).collect()
        };
        let embedding = matrix(vocab);
        let blocks = (0..depth).map(|_| matrix(d_model)).collect();
        Self { embedding, blocks }
    }

    fn vocab(&self) -> usize {
        self.embedding.len()
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014) mapped to [-1, 1].
fn uniform(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

/// Block inputs of earlier positions: `[block][row][position][d_model]`.
#[derive(Clone, Debug)]
pub struct ToyCache {
    inputs: Vec<Vec<Vec<Vec<f64>>>>,
    rows: usize,
    capacity: usize,
}

impl ToyCache {
    /// An empty cache.
    pub fn new(depth: usize, rows: usize, capacity: usize) -> Self {
        let inputs = vec![vec![Vec::new(); rows]; depth];
        Self {
            inputs,
            rows,
            capacity,
        }
    }
}

impl KvCache for ToyCache {
    fn rows(&self) -> usize {
        self.rows
    }

    fn filled(&self, block: usize, row: usize) -> usize {
        self.inputs[block][row].len()
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn truncate(&mut self, row: usize, positions: usize) {
        for block in &mut self.inputs {
            block[row].truncate(positions);
        }
    }
}

impl NestedModel for ToyModel {
    type Tokens = Vec<Vec<u32>>;
    type Hidden = ToyHidden;
    type Logits = Vec<Vec<Vec<f64>>>;
    type Cache = ToyCache;
    type Error = ToyError;

    fn depth(&self) -> usize {
        self.blocks.len()
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
        mut cache: Option<&mut ToyCache>,
    ) -> Result<ToyHidden, ToyError> {
        if range.end > self.depth() {
            return Err(ToyError::NoSuchBlocks {
                range,
                depth: self.depth(),
            });
        }
        for block in range {
            for (row, states) in hidden.iter_mut().enumerate() {
                let mut scratch = Vec::new();
                let (seen, capacity) = match cache.as_deref_mut() {
                    Some(cache) => (&mut cache.inputs[block][row], cache.capacity),
                    None => (&mut scratch, usize::MAX),
                };
                if seen.len() + states.len() > capacity {
                    return Err(ToyError::CacheFull { row, capacity });
                }
                for state in states {
                    *state = toy_block(&self.blocks[block], state, seen);
                }
            }
        }
        Ok(hidden)
    }

    fn logits(&self, hidden: &ToyHidden, _exit: Exit) -> Result<Self::Logits, ToyError> {
        let score = |state: &Vec<f64>| {
            let mean_square = dot(state, state) / state.len() as f64;
            let scale = 1.0 / (mean_square + 1e-6).sqrt();
            self.embedding
                .iter()
                .map(|row| dot(row, state) * scale)
                .collect()
        };
        Ok(hidden
            .iter()
            .map(|row| row.iter().map(score).collect())
            .collect())
    }
}

/// One block at one position; `seen` gains the position's input.
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

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl TrainModel for ToyModel {
    type Targets = Vec<Target>;
    type Loss = f64;

    fn prepare(&self, batch: &Batch) -> Result<(Self::Tokens, Self::Targets), ToyError> {
        batch.check_vocabulary(self.vocab())?;
        let rows = batch.tokens().chunks(batch.seq()).map(<[u32]>::to_vec);
        Ok((rows.collect(), batch.targets().to_vec()))
    }

    fn loss(
        &self,
        hidden: &ToyHidden,
        exit: Exit,
        targets: &Self::Targets,
    ) -> Result<f64, ToyError> {
        let logits = self.logits(hidden, exit)?;
        let nats = |target: &Target| {
            let scores = &logits[target.row][target.position];
            let normaliser: f64 = scores.iter().map(|score| score.exp()).sum();
            normaliser.ln() - scores[target.token as usize]
        };
        Ok(targets.iter().map(nats).sum())
    }

    fn target_scores(
        &self,
        hidden: &ToyHidden,
        exit: Exit,
        targets: &Self::Targets,
    ) -> Result<TargetScores, ToyError> {
        let logits = self.logits(hidden, exit)?;
        let right =
            |target: &&Target| best_token(&logits[target.row][target.position]) == target.token;
        Ok(TargetScores {
            nats: self.loss(hidden, exit, targets)?,
            correct: targets.iter().filter(right).count() as u64,
        })
    }

    fn weighted_sum(&self, terms: &[(f64, f64)]) -> f64 {
        terms.iter().map(|(weight, loss)| weight * loss).sum()
    }
}

impl DecodeModel for ToyModel {
    fn tokens(&self, rows: &[Vec<u32>]) -> Result<Vec<Vec<u32>>, ToyError> {
        Ok(rows.to_vec())
    }

    fn empty_cache(&self, rows: usize, capacity: usize) -> Result<ToyCache, ToyError> {
        Ok(ToyCache::new(self.depth(), rows, capacity))
    }

    fn best_tokens(
        &self,
        hidden: &ToyHidden,
        positions: &[usize],
        exit: Exit,
    ) -> Result<Vec<u32>, ToyError> {
        let logits = self.logits(hidden, exit)?;
        let best = |(row, &position): (&Vec<Vec<f64>>, &usize)| best_token(&row[position]);
        Ok(logits.iter().zip(positions).map(best).collect())
    }
}

impl Observed for ToyModel {
    fn logit_values(&self, logits: &ToyHidden) -> ToyHidden {
        logits.clone()
    }

    fn loss_value(&self, loss: &f64) -> f64 {
        *loss
    }

    fn concat(&self, parts: Vec<ToyHidden>) -> ToyHidden {
        let rows = parts[0].len();
        (0..rows)
            .map(|row| parts.iter().flat_map(|part| part[row].clone()).collect())
            .collect()
    }
}

/// Index of the highest score.
fn best_token(scores: &[f64]) -> u32 {
    let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    best.unwrap_or(0) as u32
}
