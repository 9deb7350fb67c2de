//! Greedy answers of a sub-model, in batches of prompts of different lengths.
//!
//! The plainest decoder: one fixed exit, the best token, a shared cache. Rows are padded for the prompt,
//! cut back to their own lengths in the cache, and then continue each at its own position, so a
//! row's answer does not depend on its company.

use thiserror::Error;

use crate::{Exit, KvCache, NestedModel};

/// What decoding adds to a nested model.
pub trait DecodeModel: NestedModel {
    /// Rows of equally many tokens, on the model's device.
    ///
    /// # Errors
    /// When a token is outside the vocabulary.
    fn tokens(&self, rows: &[Vec<u32>]) -> Result<Self::Tokens, Self::Error>;

    /// An empty cache for `rows` rows of at most `capacity` positions.
    ///
    /// # Errors
    /// When the model was not made for that many positions.
    fn empty_cache(&self, rows: usize, capacity: usize) -> Result<Self::Cache, Self::Error>;

    /// The token with the highest score at `exit`, for row r at `positions[r]` of `hidden`.
    ///
    /// # Errors
    /// As [`NestedModel::logits`].
    fn best_tokens(
        &self,
        hidden: &Self::Hidden,
        positions: &[usize],
        exit: Exit,
    ) -> Result<Vec<u32>, Self::Error>;
}

/// When greedy decoding ends.
#[derive(Clone, Copy, Debug)]
pub struct GreedyLimits<'a> {
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// Tokens that end an answer; they do not belong to it.
    pub stop_tokens: &'a [u32],
}

/// Why there is no answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GreedyError<E: std::error::Error> {
    /// Nothing to go on from.
    #[error("prompt {row} has no tokens")]
    EmptyPrompt {
        /// Index of the prompt.
        row: usize,
    },
    /// The model failed.
    #[error(transparent)]
    Model(#[from] E),
}

/// The greedy answer of sub-model `exit` to each prompt.
///
/// # Errors
/// A prompt without tokens; the model's own errors, such as more positions than it was made for.
pub fn greedy<M: DecodeModel>(
    model: &M,
    prompts: &[Vec<u32>],
    exit: Exit,
    limits: GreedyLimits,
) -> Result<Vec<Vec<u32>>, GreedyError<M::Error>> {
    if let Some(row) = prompts.iter().position(Vec::is_empty) {
        return Err(GreedyError::EmptyPrompt { row });
    }
    let mut answers = vec![Vec::new(); prompts.len()];
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    if limits.max_new_tokens == 0 || prompts.is_empty() {
        return Ok(answers);
    }
    // The last answer token is never fed back.
    let capacity = longest.saturating_add(limits.max_new_tokens - 1);
    let mut cache = model.empty_cache(prompts.len(), capacity)?;
    let mut open = vec![true; prompts.len()];
    let mut rows: Vec<Vec<u32>> = prompts
        .iter()
        .map(|prompt| padded(prompt, longest))
        .collect();
    let mut positions: Vec<usize> = prompts
        .iter()
        .map(|prompt| prompt.len().saturating_sub(1))
        .collect();
    for new_tokens in 0..limits.max_new_tokens {
        let hidden = model.embed(&model.tokens(&rows)?)?;
        let hidden = model.blocks(hidden, 0..exit.depth(), Some(&mut cache))?;
        let best = model.best_tokens(&hidden, &positions, exit)?;
        if new_tokens == 0 {
            for (row, prompt) in prompts.iter().enumerate() {
                cache.truncate(row, prompt.len());
            }
        }
        for ((answer, open), token) in answers.iter_mut().zip(&mut open).zip(&best) {
            *open &= !limits.stop_tokens.contains(token);
            if *open {
                answer.push(*token);
            }
        }
        if !open.contains(&true) {
            break;
        }
        rows = best.into_iter().map(|token| vec![token]).collect();
        positions = vec![0; prompts.len()];
    }
    Ok(answers)
}

/// `prompt` filled up to `length`; what fills it is computed and never read.
fn padded(prompt: &[u32], length: usize) -> Vec<u32> {
    let mut row = prompt.to_vec();
    row.resize(length, 0);
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy::ToyModel;
    use proptest::prelude::*;

    /// Greedy decoding with neither cache nor batch.
    fn naive(model: &ToyModel, prompt: &[u32], exit: Exit, limits: GreedyLimits) -> Vec<u32> {
        let mut text = prompt.to_vec();
        for _ in 0..limits.max_new_tokens {
            let logits = model.sub_model(&vec![text.clone()], exit).unwrap();
            let scores = &logits[0][text.len() - 1];
            let best = (0..scores.len())
                .max_by(|&a, &b| scores[a].total_cmp(&scores[b]))
                .unwrap();
            if limits.stop_tokens.contains(&(best as u32)) {
                break;
            }
            text.push(best as u32);
        }
        text.split_off(prompt.len())
    }

    #[test]
    fn a_prompt_without_tokens_is_refused() {
        let model = ToyModel::new(2, 5, 9, 1);
        let limits = GreedyLimits {
            max_new_tokens: 1,
            stop_tokens: &[],
        };
        let prompts = [vec![1], vec![]];
        let error = greedy(&model, &prompts, Exit::new(2).unwrap(), limits).unwrap_err();
        assert!(matches!(error, GreedyError::EmptyPrompt { row: 1 }));
    }

    proptest! {
        #[test]
        fn ragged_batches_answer_as_each_row_alone(
            seed: u64,
            prompts in proptest::collection::vec(proptest::collection::vec(0u32..9, 1..7), 1..5),
            depth in 1usize..4,
            max_new_tokens in 0usize..8,
        ) {
            let model = ToyModel::new(3, 5, 9, seed);
            let exit = Exit::new(depth).unwrap();
            let limits = GreedyLimits { max_new_tokens, stop_tokens: &[4] };
            let answers = greedy(&model, &prompts, exit, limits).unwrap();
            for (prompt, answer) in prompts.iter().zip(answers) {
                prop_assert_eq!(answer, naive(&model, prompt, exit, limits));
            }
        }
    }
}
