//! What decoding asks of LLaMA: packed states, heads of which only scores come to the host.

use burn::tensor::{Int, Tensor, TensorData, activation};
use soft_core::model::{Head, Score};
use soft_core::{DecodeModel, Exit};

use crate::decode::cache::Cache;
use crate::dtype::to_f32;
use crate::error::Error;
use crate::model::llama::Llama;
use crate::ops::linear::project;

/// The head of an exit cut down to some tokens.
#[derive(Clone, Debug)]
pub struct DraftHead {
    tokens: Vec<u32>,
    /// `[tokens, d_model]`.
    weight: Tensor<2>,
}

impl Llama {
    /// The head's weight, `[tokens, d_model]`.
    pub(crate) fn head_tensor(&self, head: Head<DraftHead>) -> Tensor<2> {
        match head {
            Head::Draft(head) => head.weight.clone(),
            Head::Full(exit) => match self.exit_heads.get(exit) {
                Some(own) => own.weight.val(),
                None => self.head_weight(),
            },
        }
    }

    /// Refuses a head that cannot be applied to packed states.
    fn check_head(&self, head: Head<DraftHead>) -> Result<(), Error> {
        match head {
            Head::Full(exit) => self.check_decodable(exit),
            Head::Draft(_) => Ok(()),
        }
    }

    /// Logits of packed states over the head's tokens, `[n, tokens]`, in f32: indices beside them in one tensor must be exact.
    fn packed_logits(&self, hidden: &Tensor<3>, head: Head<DraftHead>) -> Tensor<2> {
        let [_, n, d_model] = hidden.dims();
        let normed = self
            .model
            .norm
            .forward(hidden.clone().reshape([n, d_model]));
        to_f32(project(normed, self.head_tensor(head)))
    }
}

/// The token that the head's `index` stands for.
fn token_of(head: Head<DraftHead>, index: usize) -> u32 {
    match head {
        Head::Full(_) => index as u32,
        Head::Draft(head) => head.tokens[index],
    }
}

impl DecodeModel for Llama {
    type DraftHead = DraftHead;

    fn tokens(&self, rows: &[Vec<u32>]) -> Result<Tensor<2, Int>, Error> {
        let seq = rows.first().map_or(0, Vec::len);
        if rows.is_empty() {
            return Err(soft_core::BatchError::NoRows.into());
        }
        if let Some(row) = rows
            .iter()
            .position(|row| row.len() != seq || row.is_empty())
        {
            return Err(Error::UnevenRows {
                row,
                found: rows[row].len(),
                expected: seq,
            });
        }
        self.token_tensor(&rows.concat(), seq)
    }

    fn vocab(&self) -> usize {
        self.config.vocab
    }

    fn context(&self) -> usize {
        self.config.max_positions
    }

    fn empty_cache(&self, rows: usize, capacity: usize) -> Result<Cache, Error> {
        self.new_cache(rows, capacity)
    }

    fn select(&self, hidden: &Tensor<3>, states: &[usize]) -> Result<Tensor<3>, Error> {
        let indices: Vec<i64> = states.iter().map(|&state| state as i64).collect();
        let indices = TensorData::new(indices, [states.len()]);
        Ok(hidden
            .clone()
            .select(1, Tensor::from_data(indices, &hidden.device())))
    }

    fn concat(&self, parts: Vec<Tensor<3>>) -> Result<Tensor<3>, Error> {
        Ok(Tensor::cat(parts, 1))
    }

    fn draft_head(&self, exit: Exit, tokens: &[u32]) -> Result<DraftHead, Error> {
        self.check_decodable(exit)?;
        let row = self.tokens(&[tokens.to_vec()])?;
        let weight = self.head_tensor(Head::Full(exit));
        Ok(DraftHead {
            tokens: tokens.to_vec(),
            weight: weight.select(0, row.reshape([tokens.len()])),
        })
    }

    fn draft_heads(&self, exits: &[Exit], tokens: &[u32]) -> Result<Vec<DraftHead>, Error> {
        exits
            .iter()
            .try_for_each(|&exit| self.check_decodable(exit))?;
        let Some(first) = exits
            .iter()
            .find(|&&exit| self.exit_heads.get(exit).is_none())
        else {
            return exits
                .iter()
                .map(|&exit| self.draft_head(exit, tokens))
                .collect();
        };
        let shared = self.draft_head(*first, tokens)?;
        let head = |&exit: &Exit| match self.exit_heads.get(exit) {
            Some(_) => self.draft_head(exit, tokens),
            None => Ok(shared.clone()),
        };
        exits.iter().map(head).collect()
    }

    fn best_tokens(&self, hidden: &Tensor<3>, head: Head<DraftHead>) -> Result<Vec<u32>, Error> {
        self.check_head(head)?;
        #[cfg(feature = "flex")]
        if self.is_on_host() {
            let best = self.with_host_head(hidden, head, |weights, states| weights.best(states))?;
            let best = best.ok_or(Error::ScoresNotFinite)?;
            return Ok(best
                .into_iter()
                .map(|index| token_of(head, index))
                .collect());
        }
        let logits = self.packed_logits(hidden, head);
        let highest = logits.clone().max_dim(1);
        // Indices as numbers, exact up to 2^24: one reading for both.
        let both = Tensor::cat(vec![logits.argmax(1).float(), highest], 1);
        let both = both.try_into_vec_as::<f32>().map_err(unreadable)?;
        check_finite(&both)?;
        let token = |pair: &[f32]| token_of(head, pair[0] as usize);
        Ok(both.chunks(2).map(token).collect())
    }

    fn scores(&self, hidden: &Tensor<3>, head: Head<DraftHead>) -> Result<Vec<Score>, Error> {
        self.check_head(head)?;
        #[cfg(feature = "flex")]
        if self.is_on_host() {
            let scores =
                self.with_host_head(hidden, head, |weights, states| weights.scores(states))?;
            let mut scores = scores.ok_or(Error::ScoresNotFinite)?;
            for score in &mut scores {
                score.token = token_of(head, score.token as usize);
            }
            return Ok(scores);
        }
        let logs = activation::log_softmax(self.packed_logits(hidden, head), 1);
        let tokens = logs.dims()[1];
        // Of several best tokens `argmax` names the first, sorting any.
        let best = logs.clone().argmax(1).float();
        let highest = logs.clone().topk(tokens.min(2), 1);
        let entropy = (logs.clone().exp() * logs).sum_dim(1).neg();
        let numbers = Tensor::cat(vec![best, entropy, highest], 1);
        let width = numbers.dims()[1];
        let numbers = numbers.try_into_vec_as::<f32>().map_err(unreadable)?;
        check_finite(&numbers)?;
        let score = |numbers: &[f32]| Score {
            token: token_of(head, numbers[0] as usize),
            probability: numbers[2].exp(),
            second: numbers.get(3).map_or(0.0, |log| log.exp()),
            entropy: numbers[1],
        };
        Ok(numbers.chunks(width).map(score).collect())
    }

    fn logit_rows(
        &self,
        hidden: &Tensor<3>,
        head: Head<DraftHead>,
    ) -> Result<Vec<Vec<f32>>, Error> {
        self.check_head(head)?;
        let logits = self.all_logits(hidden, head)?;
        let n = hidden.dims()[1];
        let rows = logits.chunks(logits.len() / n);
        let spread = |row: &[f32]| match head {
            Head::Full(_) => row.to_vec(),
            Head::Draft(head) => {
                let mut all = vec![f32::NEG_INFINITY; self.config.vocab];
                for (&token, &logit) in head.tokens.iter().zip(row) {
                    all[token as usize] = logit;
                }
                all
            }
        };
        Ok(rows.map(spread).collect())
    }

    fn cosine_similarities(
        &self,
        before: &Tensor<3>,
        after: &Tensor<3>,
    ) -> Result<Vec<f32>, Error> {
        let (a, b) = (to_f32(before.clone()), to_f32(after.clone()));
        let dot = |a: &Tensor<3>, b: &Tensor<3>| (a.clone() * b.clone()).sum_dim(2);
        let cosines = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
        cosines.try_into_vec_as::<f32>().map_err(unreadable)
    }
}

impl Llama {
    /// Logits of packed states over the head's tokens, on the host, state by state.
    fn all_logits(&self, hidden: &Tensor<3>, head: Head<DraftHead>) -> Result<Vec<f32>, Error> {
        #[cfg(feature = "flex")]
        if self.is_on_host() {
            return self.with_host_head(hidden, head, |weights, states| weights.logits(states));
        }
        let logits = self.packed_logits(hidden, head);
        logits.try_into_vec_as::<f32>().map_err(unreadable)
    }
}

/// Refuses numbers that damaged weights give.
fn check_finite(numbers: &[f32]) -> Result<(), Error> {
    let finite = numbers.iter().all(|number| number.is_finite());
    if finite {
        Ok(())
    } else {
        Err(Error::ScoresNotFinite)
    }
}

pub(crate) fn unreadable(source: impl std::fmt::Display) -> Error {
    Error::Read {
        name: "scores".to_owned(),
        reason: source.to_string(),
    }
}
