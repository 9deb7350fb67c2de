//! The traits of decoding for the model on candle.

use candle_core::{DType, Device, Error, Result, Tensor, bail};
use candle_nn::{Linear, Module};
use soft_core::conformance::Observed;
use soft_core::model::Head;
use soft_core::{BatchError, DecodeModel, Exit};

use crate::llama::{Llama, Store};

impl DecodeModel for Llama {
    type DraftHead = Linear;

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

    fn empty_store(&self, rows: usize, capacity: usize) -> Result<Store> {
        if capacity > self.context {
            bail!(
                "a cache of {capacity} positions: the model was made for {}",
                self.context
            );
        }
        self.store(rows)
    }

    fn gather(&self, parts: &[&Tensor], states: &[usize]) -> Result<Tensor> {
        let states = states.iter().map(|&state| state as u32);
        Tensor::cat(parts, 1)?.index_select(&Tensor::from_iter(states, &Device::Cpu)?, 1)
    }

    fn draft_head(&self, _exit: Exit, tokens: &[u32]) -> Result<Linear> {
        let ids = self.token_tensor(tokens, tokens.len())?.squeeze(0)?;
        let weight = self.head.weight().index_select(&ids, 0)?;
        Ok(Linear::new(weight, None))
    }

    fn logit_rows(&self, hidden: &Tensor, head: Head<Linear>) -> Result<Vec<Vec<f32>>> {
        let head = match head {
            Head::Full(_) => &self.head,
            Head::Draft(head) => head,
        };
        let normed = self.norm.forward_diff(&hidden.squeeze(0)?)?;
        let rows: Vec<Vec<f32>> = head.forward(&normed)?.to_vec2()?;
        if rows.iter().flatten().any(|logit| !logit.is_finite()) {
            bail!("logits are not finite: the weights are damaged");
        }
        Ok(rows)
    }

    fn read_states(&self, hidden: &Tensor) -> Result<Vec<Vec<f32>>> {
        hidden.squeeze(0)?.to_vec2()
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
