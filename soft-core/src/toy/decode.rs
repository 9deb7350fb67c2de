//! `DecodeModel` for the toy model.

use super::{ToyError, ToyHidden, ToyModel, ToyStore};
use crate::exit::Exit;
use crate::model::decode_model::{DecodeModel, Head};
use crate::model::nested::Past;

/// A head restricted to some tokens.
#[derive(Clone, Debug)]
pub struct ToyDraftHead(Vec<u32>);

/// Maximum number of positions of a row, small enough for tests to fill.
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

    fn empty_store(&self, rows: usize, _capacity: usize) -> Result<ToyStore, ToyError> {
        Ok(vec![vec![Vec::new(); rows]; self.blocks.len()])
    }

    fn append_states(
        &self,
        hidden: ToyHidden,
        block: usize,
        past: Past<ToyStore>,
    ) -> Result<(), ToyError> {
        let range = block..block + 1;
        self.check_blocks(&range)?;
        let counts = past.query_lens;
        let (starts, store) = past.cache.append(&range, counts, hidden[0].len())?;
        let mut states = hidden.into_iter().flatten();
        for (row, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            store[block][row].truncate(starts[row]);
            store[block][row].extend(states.by_ref().take(count));
        }
        Ok(())
    }

    fn gather(&self, parts: &[&ToyHidden], states: &[usize]) -> Result<ToyHidden, ToyError> {
        let all: Vec<_> = parts.iter().flat_map(|part| &part[0]).collect();
        Ok(vec![
            states.iter().map(|&state| all[state].clone()).collect(),
        ])
    }

    fn draft_head(&self, _exit: Exit, tokens: &[u32]) -> Result<ToyDraftHead, ToyError> {
        Ok(ToyDraftHead(tokens.to_vec()))
    }

    fn logit_rows(
        &self,
        hidden: &ToyHidden,
        head: Head<ToyDraftHead>,
    ) -> Result<Vec<Vec<f32>>, ToyError> {
        let row = |state: &Vec<f64>| {
            let logits = self.state_logits(state);
            match head {
                Head::Full(_) => logits.iter().map(|&logit| logit as f32).collect(),
                Head::Draft(ToyDraftHead(tokens)) => {
                    let logit = |&token: &u32| logits[token as usize] as f32;
                    tokens.iter().map(logit).collect()
                }
            }
        };
        Ok(hidden[0].iter().map(row).collect())
    }

    fn read_states(&self, hidden: &ToyHidden) -> Result<Vec<Vec<f32>>, ToyError> {
        let single = |state: &Vec<f64>| state.iter().map(|&value| value as f32).collect();
        Ok(hidden[0].iter().map(single).collect())
    }
}
