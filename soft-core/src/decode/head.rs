//! Applies a head to packed states and computes only the output that is needed.
//!
//! Draft heads are restricted to some tokens; their outputs are converted to the full vocabulary.

use super::engine::Engine;
use super::packed::Packed;
use crate::decode::settings::{DecodeError, SettingsError};
use crate::model::decode_model::{DecodeModel, Head, Score};
use crate::sampling::distribution::Distribution;
use crate::sampling::sampler::Sampling;

pub(super) struct HeadOutput {
    /// The best token.
    pub token: u32,
    pub score: Option<Score>,
    /// One per token of the vocabulary, if a sampler needs them.
    pub logits: Option<Vec<f32>>,
}

#[derive(Clone, Copy)]
pub(super) struct HeadRequest {
    /// Index of an early exit; `None` for the full model.
    pub early: Option<usize>,
    /// Whether scores are needed in addition to the best token.
    pub scored: bool,
}

impl<M: DecodeModel> Engine<'_, M> {
    /// Applies a head to the `picked` ones of packed states, which are the newest of their rows.
    pub fn apply_head(
        &mut self,
        states: &Packed<M::Hidden>,
        picked: &[usize],
        request: HeadRequest,
    ) -> Result<Vec<HeadOutput>, DecodeError<M::Error>> {
        let last = self.exits.len() - 1;
        let hidden = self.head_states(request.early.unwrap_or(last), states, picked)?;
        let drafting = request.early.zip(self.draft_heads.as_ref());
        let count = picked.len() as u64;
        let head = match &drafting {
            Some((index, draft)) => {
                self.statistics.draft_head_states += count;
                Head::Draft(&draft.heads[*index])
            }
            None => {
                self.statistics.head_states += count;
                self.statistics.head_passes += 1;
                Head::Full(
                    request
                        .early
                        .map_or(self.last_exit(), |index| self.exits[index]),
                )
            }
        };
        let restricted = drafting.map(|(_, draft)| draft.tokens.as_slice());
        let outputs = self.outputs(&hidden, (head, request.scored));
        outputs
            .map(|outputs| match restricted {
                None => outputs,
                Some(tokens) => {
                    let vocab = self.model.vocab();
                    let full = |output: HeadOutput| output.in_vocabulary(tokens, vocab);
                    outputs.into_iter().map(full).collect()
                }
            })
            .map_err(DecodeError::Model)
    }

    fn outputs(
        &self,
        hidden: &M::Hidden,
        (head, scored): (Head<M::DraftHead>, bool),
    ) -> Result<Vec<HeadOutput>, M::Error> {
        let model = self.model;
        if !self.sampling.needs_only_the_best() {
            let rows = model.logit_rows(hidden, head)?;
            return Ok(rows.into_iter().map(HeadOutput::of_logits).collect());
        }
        if scored {
            let scores = model.scores(hidden, head)?;
            return Ok(scores.into_iter().map(HeadOutput::of_score).collect());
        }
        let tokens = model.best_tokens(hidden, head)?;
        Ok(tokens.into_iter().map(HeadOutput::of_token).collect())
    }

    /// The distribution to sample from after the tokens before `position`; `None` without logits.
    pub fn distribution(
        &self,
        row: usize,
        position: usize,
        output: &HeadOutput,
    ) -> Result<Option<Distribution>, DecodeError<M::Error>> {
        let Some(logits) = &output.logits else {
            return Ok(None);
        };
        let seen = &self.rows[row].tokens[..position];
        let distribution = self.sampling.distribution(logits, seen);
        Ok(Some(distribution.map_err(SettingsError::from)?))
    }
}

impl HeadOutput {
    fn of_logits(logits: Vec<f32>) -> Self {
        let score = Score::of_logits(&logits);
        Self {
            logits: Some(logits),
            ..Self::of_score(score)
        }
    }

    fn of_score(score: Score) -> Self {
        Self {
            score: Some(score),
            ..Self::of_token(score.token)
        }
    }

    fn of_token(token: u32) -> Self {
        Self {
            token,
            score: None,
            logits: None,
        }
    }

    /// Converts the output of a head restricted to `tokens` to the full vocabulary.
    fn in_vocabulary(self, tokens: &[u32], vocab: usize) -> Self {
        let spread = |logits: Vec<f32>| {
            let mut all = vec![f32::NEG_INFINITY; vocab];
            for (&token, logit) in tokens.iter().zip(logits) {
                all[token as usize] = logit;
            }
            all
        };
        let token = tokens[self.token as usize];
        Self {
            token,
            score: self.score.map(|score| Score { token, ..score }),
            logits: self.logits.map(spread),
        }
    }

    /// Probability of the best token: in the sampling distribution, or of the head when greedy.
    pub fn confidence(&self, from: Option<&Distribution>, sampling: &Sampling) -> f64 {
        match (from, &self.logits, self.score) {
            (Some(from), _, _) if !sampling.is_greedy() => from.probability(from.best()),
            // With a penalty the best token may differ from the head's.
            (Some(from), Some(logits), Some(score)) => {
                let behind = logits[score.token as usize] - logits[from.best() as usize];
                f64::from(score.probability) * f64::from(-behind).exp()
            }
            (_, _, Some(score)) => f64::from(score.probability),
            _ => 1.0,
        }
    }
}
