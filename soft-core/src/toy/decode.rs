//! What decoding asks of the toy model.

use super::{ToyCache, ToyError, ToyHidden, ToyModel, best_token, dot};
use crate::exit::Exit;
use crate::model::decode_model::{DecodeModel, Head, Score};
use crate::model::nested::NestedModel;

/// A head cut down to some tokens.
#[derive(Clone, Debug)]
pub struct ToyDraftHead(Vec<u32>);

/// Most positions of a row: a context that tests can fill.
const TOY_CONTEXT: usize = 64;

impl DecodeModel for ToyModel {
    type DraftHead = ToyDraftHead;

    fn tokens(&self, rows: &[Vec<u32>]) -> Result<Vec<Vec<u32>>, ToyError> {
        Ok(rows.to_vec())
    }

    fn vocab(&self) -> usize {
        self.embedding.len()
    }

    fn context(&self) -> usize {
        TOY_CONTEXT
    }

    fn empty_cache(&self, rows: usize, capacity: usize) -> Result<ToyCache, ToyError> {
        Ok(ToyCache::new(self.depth(), rows, capacity))
    }

    fn select(&self, hidden: &ToyHidden, states: &[usize]) -> Result<ToyHidden, ToyError> {
        let selected = states.iter().map(|&state| hidden[0][state].clone());
        Ok(vec![selected.collect()])
    }

    fn concat(&self, parts: Vec<ToyHidden>) -> Result<ToyHidden, ToyError> {
        Ok(vec![parts.into_iter().flatten().flatten().collect()])
    }

    fn draft_head(&self, _exit: Exit, tokens: &[u32]) -> Result<ToyDraftHead, ToyError> {
        Ok(ToyDraftHead(tokens.to_vec()))
    }

    fn best_tokens(
        &self,
        hidden: &ToyHidden,
        head: Head<ToyDraftHead>,
    ) -> Result<Vec<u32>, ToyError> {
        let logits = self.masked_logits(hidden, head);
        Ok(logits.iter().map(|logits| best_token(logits)).collect())
    }

    fn scores(&self, hidden: &ToyHidden, head: Head<ToyDraftHead>) -> Result<Vec<Score>, ToyError> {
        let rows = self.logit_rows(hidden, head)?;
        Ok(rows.iter().map(|logits| Score::of_logits(logits)).collect())
    }

    fn logit_rows(
        &self,
        hidden: &ToyHidden,
        head: Head<ToyDraftHead>,
    ) -> Result<Vec<Vec<f32>>, ToyError> {
        let rows = self.masked_logits(hidden, head);
        let single = |row: Vec<f64>| row.into_iter().map(|logit| logit as f32).collect();
        Ok(rows.into_iter().map(single).collect())
    }

    fn cosine_similarities(
        &self,
        before: &ToyHidden,
        after: &ToyHidden,
    ) -> Result<Vec<f32>, ToyError> {
        let cosine =
            |(a, b): (&Vec<f64>, &Vec<f64>)| (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()) as f32;
        Ok(before[0].iter().zip(&after[0]).map(cosine).collect())
    }
}

impl ToyModel {
    /// Logits of packed states over the head's tokens; -∞ elsewhere.
    fn masked_logits(&self, hidden: &ToyHidden, head: Head<ToyDraftHead>) -> Vec<Vec<f64>> {
        let rows = hidden[0].iter().map(|state| self.state_logits(state));
        let mask = |logits: Vec<f64>| match head {
            Head::Full(_) => logits,
            Head::Draft(ToyDraftHead(tokens)) => {
                let keep = |(token, logit)| {
                    if tokens.contains(&(token as u32)) {
                        logit
                    } else {
                        f64::NEG_INFINITY
                    }
                };
                logits.into_iter().enumerate().map(keep).collect()
            }
        };
        rows.map(mask).collect()
    }
}
