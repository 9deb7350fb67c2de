//! What decoding asks of the model on candle. Logits are read on the host, where they are anyway.

use candle_core::{D, DType, Device, Error, Result, Tensor, bail};
use candle_nn::{Linear, Module};
use soft_core::conformance::Observed;
use soft_core::model::{Head, Score};
use soft_core::{BatchError, DecodeModel, Exit, NestedModel};

use crate::attention::Cache;
use crate::llama::Llama;

/// The head cut down to some tokens.
pub struct DraftHead {
    tokens: Vec<u32>,
    head: Linear,
}

impl DecodeModel for Llama {
    type DraftHead = DraftHead;

    fn tokens(&self, rows: &[Vec<u32>]) -> Result<Tensor> {
        let seq = rows.first().map_or(0, Vec::len);
        if seq == 0 {
            return Err(Error::wrap(BatchError::NoRows));
        }
        if let Some(row) = rows.iter().position(|row| row.len() != seq) {
            bail!(
                "row {row} has {} tokens: expected {seq}, as row 0 has",
                rows[row].len()
            );
        }
        self.token_tensor(&rows.concat(), seq)
    }

    fn vocab(&self) -> usize {
        self.head.weight().dims()[0]
    }

    fn context(&self) -> usize {
        self.context
    }

    fn empty_cache(&self, rows: usize, capacity: usize) -> Result<Cache> {
        if capacity > self.context {
            bail!(
                "a cache of {capacity} positions: the model was made for {}",
                self.context
            );
        }
        Cache::new(self, rows, capacity)
    }

    fn select(&self, hidden: &Tensor, states: &[usize]) -> Result<Tensor> {
        let states = states.iter().map(|&state| state as u32);
        hidden.index_select(&Tensor::from_iter(states, &Device::Cpu)?, 1)
    }

    fn concat(&self, parts: Vec<Tensor>) -> Result<Tensor> {
        Tensor::cat(&parts, 1)
    }

    fn draft_head(&self, _exit: Exit, tokens: &[u32]) -> Result<DraftHead> {
        let ids = self.token_tensor(tokens, tokens.len())?.squeeze(0)?;
        let weight = self.head.weight().index_select(&ids, 0)?;
        Ok(DraftHead {
            tokens: tokens.to_vec(),
            head: Linear::new(weight, None),
        })
    }

    fn best_tokens(&self, hidden: &Tensor, head: Head<DraftHead>) -> Result<Vec<u32>> {
        let scores = self.scores(hidden, head)?;
        Ok(scores.iter().map(|score| score.token).collect())
    }

    fn scores(&self, hidden: &Tensor, head: Head<DraftHead>) -> Result<Vec<Score>> {
        let rows = self.logit_rows(hidden, head)?;
        let damaged = |row: &Vec<f32>| {
            let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            !highest.is_finite() || row.iter().any(|logit| logit.is_nan())
        };
        if rows.iter().any(damaged) {
            bail!("scores are not finite: the weights are damaged");
        }
        Ok(rows.iter().map(|row| Score::of_logits(row)).collect())
    }

    fn logit_rows(&self, hidden: &Tensor, head: Head<DraftHead>) -> Result<Vec<Vec<f32>>> {
        let draft = match head {
            Head::Full(exit) => return self.logits(hidden, exit)?.squeeze(0)?.to_vec2(),
            Head::Draft(draft) => draft,
        };
        let normed = self.norm.forward_diff(&hidden.squeeze(0)?)?;
        let rows: Vec<Vec<f32>> = draft.head.forward(&normed)?.to_vec2()?;
        let spread = |row: &Vec<f32>| {
            let mut all = vec![f32::NEG_INFINITY; self.vocab()];
            draft
                .tokens
                .iter()
                .zip(row)
                .for_each(|(&token, &logit)| all[token as usize] = logit);
            all
        };
        Ok(rows.iter().map(spread).collect())
    }

    fn cosine_similarities(&self, before: &Tensor, after: &Tensor) -> Result<Vec<f32>> {
        let dot = |a: &Tensor, b: &Tensor| (a * b)?.sum(D::Minus1);
        let norms = (dot(before, before)? * dot(after, after)?)?.sqrt()?;
        (dot(before, after)? / norms)?.flatten_all()?.to_vec1()
    }
}

impl Observed for Llama {
    fn logit_values(&self, logits: &Tensor) -> Result<Vec<Vec<Vec<f64>>>> {
        logits.to_dtype(DType::F64)?.to_vec3()
    }

    fn loss_value(&self, loss: &Tensor) -> Result<f64> {
        Ok(loss.to_scalar::<f32>()?.into())
    }
}
