//! `DecodeModel` for LLaMA: packed hidden states, and heads that return scores only.

use burn::tensor::{Int, Tensor};
use soft_core::model::{Head, Score};
use soft_core::{DecodeModel, Exit, Past};

use crate::dtype::to_f32;
use crate::error::Error;
use crate::model::llama::Llama;
use crate::ops::head::{HeadTensors, unreadable};
use crate::ops::kv_store::KvStore;
use crate::ops::transfers::{read, upload_indices};

/// A head restricted to some tokens of the vocabulary.
#[derive(Clone, Debug)]
pub struct DraftHead {
    /// `[d_model]`.
    norm: Tensor<1>,
    /// `[tokens, d_model]`.
    weight: Tensor<2>,
}

impl Llama {
    /// The weight of the head of `exit`, `[vocab, d_model]`.
    fn exit_head_weight(&self, exit: Exit) -> Tensor<2> {
        match self.exit_heads.get(exit) {
            Some(own) => own.weight.val(),
            None => self.head_weight(),
        }
    }

    /// The weight of the norm before the head of `exit`, `[d_model]`.
    fn exit_norm_weight(&self, exit: Exit) -> Tensor<1> {
        self.norm_of(exit).weight.val()
    }

    /// Norm and head, and the packed states as `[n, d_model]`.
    fn head_and_states(
        &self,
        hidden: &Tensor<3>,
        head: Head<DraftHead>,
    ) -> (HeadTensors, Tensor<2>) {
        let [_, n, d_model] = hidden.dims();
        let (norm, weight) = match head {
            Head::Draft(DraftHead { norm, weight }) => (norm.clone(), weight.clone()),
            Head::Full(exit) => (self.exit_norm_weight(exit), self.exit_head_weight(exit)),
        };
        let tensors = HeadTensors {
            norm,
            norm_eps: self.config.norm_eps,
            weight,
        };
        (tensors, hidden.clone().reshape([n, d_model]))
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

    fn empty_store(&self, rows: usize, capacity: usize) -> Result<KvStore, Error> {
        self.new_store(rows, capacity)
    }

    fn gather(&self, parts: &[&Tensor<3>], states: &[usize]) -> Result<Tensor<3>, Error> {
        let parts: Vec<_> = parts.iter().map(|part| (*part).clone()).collect();
        let all = Tensor::cat(parts, 1);
        let in_order = states.iter().copied().eq(0..all.dims()[1]);
        if in_order {
            return Ok(all);
        }
        let indices: Vec<i64> = states.iter().map(|&state| state as i64).collect();
        let indices = upload_indices(indices, [states.len()], &all.device());
        Ok(all.select(1, indices))
    }

    fn append_states(
        &self,
        hidden: Tensor<3>,
        block: usize,
        past: Past<KvStore>,
    ) -> Result<(), Error> {
        self.append_packed(hidden, block, past)
    }

    fn draft_head(&self, exit: Exit, tokens: &[u32]) -> Result<DraftHead, Error> {
        let row = self.tokens(&[tokens.to_vec()])?;
        let weight = self.exit_head_weight(exit);
        let chosen = weight.select(0, row.reshape([tokens.len()]));
        let shape @ [rows, width] = chosen.dims();
        // Through an array: on CUDA the rows of a new matrix are padded, and copied for each use.
        Ok(DraftHead {
            norm: self.exit_norm_weight(exit),
            weight: chosen.reshape([rows * width]).reshape(shape),
        })
    }

    fn draft_heads(&self, exits: &[Exit], tokens: &[u32]) -> Result<Vec<DraftHead>, Error> {
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
            None => Ok(DraftHead {
                norm: self.exit_norm_weight(exit),
                weight: shared.weight.clone(),
            }),
        };
        exits.iter().map(head).collect()
    }

    fn best_tokens(&self, hidden: &Tensor<3>, head: Head<DraftHead>) -> Result<Vec<u32>, Error> {
        let (head, states) = self.head_and_states(hidden, head);
        head.best(states)
    }

    fn scores(&self, hidden: &Tensor<3>, head: Head<DraftHead>) -> Result<Vec<Score>, Error> {
        let (head, states) = self.head_and_states(hidden, head);
        head.scores(states)
    }

    fn logit_rows(
        &self,
        hidden: &Tensor<3>,
        head: Head<DraftHead>,
    ) -> Result<Vec<Vec<f32>>, Error> {
        let (head, states) = self.head_and_states(hidden, head);
        head.logit_rows(states)
    }

    fn read_states(&self, hidden: &Tensor<3>) -> Result<Vec<Vec<f32>>, Error> {
        let width = self.config.d_model;
        let values = read(to_f32(hidden.clone())).map_err(unreadable)?;
        Ok(values.chunks(width).map(<[f32]>::to_vec).collect())
    }
}
