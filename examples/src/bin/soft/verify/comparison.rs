//! Compares answers token by token with plain decoding, or with the sub-models of their exits.

use anyhow::{Context, Result};
use soft_core::decode::Step;
use soft_core::model::Head;
use soft_core::{DecodeModel, Exit, NestedModel, Past, Prompt};

use super::Verifier;

/// The result of one check.
#[derive(Default)]
pub struct Comparison {
    pub name: String,
    pub answers: usize,
    pub compared: usize,
    /// Number of tokens that differ. Two runs are compared up to the first difference of each
    /// answer only, since the texts differ after it.
    pub different: usize,
    /// Number of compared tokens from early exits.
    pub early: usize,
    pub first: Option<Difference>,
}

/// A difference in the answer to a prompt.
pub struct Difference {
    pub prompt: usize,
    pub position: usize,
    pub expected: Option<u32>,
    pub found: Option<u32>,
    /// Difference of the logits of the two tokens at the exit that is checked.
    pub gap: Option<f32>,
}

impl Comparison {
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }
}

impl Verifier<'_> {
    /// Compares two runs up to the first difference of each answer.
    pub fn compare_with(
        &self,
        comparison: &mut Comparison,
        first: usize,
        prompts: &[Prompt],
        expected: &[Vec<Step>],
        found: &[Vec<Step>],
    ) -> Result<()> {
        for (row, (expected, found)) in expected.iter().zip(found).enumerate() {
            comparison.answers += 1;
            let token =
                |steps: &[Step], position: usize| steps.get(position).map(|step| step.token);
            let longest = expected.len().max(found.len());
            let differs = (0..longest).find(|&p| token(expected, p) != token(found, p));
            let compared = differs.map_or(longest, |position| position + 1);
            let early = |step: &&Step| step.exit != self.exits.last();
            comparison.compared += compared;
            comparison.early += found.iter().take(compared).filter(early).count();
            let Some(position) = differs else { continue };
            comparison.different += 1;
            if comparison.first.is_none() {
                let (expected_token, found_token) =
                    (token(expected, position), token(found, position));
                let mut text = prompts[row].tokens.clone();
                text.extend(expected[..position].iter().map(|step| step.token));
                comparison.first = Some(Difference {
                    prompt: first + row,
                    position,
                    expected: expected_token,
                    found: found_token,
                    gap: self.gap(&text, self.exits.last(), expected_token, found_token)?,
                });
            }
        }
        Ok(())
    }

    /// Compares each token with the prediction of the sub-model of its exit on the finished text.
    pub fn compare_early(
        &self,
        comparison: &mut Comparison,
        first: usize,
        prompts: &[Prompt],
        found: &[Vec<Step>],
    ) -> Result<()> {
        for (row, steps) in found
            .iter()
            .enumerate()
            .filter(|(_, steps)| !steps.is_empty())
        {
            let mut text = prompts[row].tokens.clone();
            let prompt = text.len();
            text.extend(steps.iter().map(|step| step.token));
            let predicted = self.predictions(&text[..text.len() - 1], prompt - 1)?;
            comparison.answers += 1;
            for (position, step) in steps.iter().enumerate() {
                let exit = self.exits.iter().position(|exit| exit == step.exit);
                let expected = predicted[exit.context("a token of an unknown exit")?][position];
                comparison.compared += 1;
                comparison.early += usize::from(step.exit != self.exits.last());
                if expected == step.token {
                    continue;
                }
                comparison.different += 1;
                if comparison.first.is_none() {
                    let text = &text[..prompt + position];
                    comparison.first = Some(Difference {
                        prompt: first + row,
                        position,
                        expected: Some(expected),
                        found: Some(step.token),
                        gap: self.gap(text, step.exit, Some(expected), Some(step.token))?,
                    });
                }
            }
        }
        Ok(())
    }

    /// The predictions of each exit's sub-model after every position of `text` from `from` on,
    /// `[exit][position]`.
    fn predictions(&self, text: &[u32], from: usize) -> Result<Vec<Vec<u32>>> {
        let model = &self.model.model;
        let mut cache = model.empty_cache(1, text.len())?;
        let mut hidden = model.embed(&model.tokens(&[text.to_vec()])?)?;
        let positions: Vec<usize> = (from..text.len()).collect();
        let mut predicted = Vec::new();
        for (segment, exit) in self.exits.segments().zip(self.exits.iter()) {
            let past = Past {
                cache: &mut cache,
                query_lens: &[text.len()],
            };
            hidden = model.blocks(hidden, segment, Some(past))?;
            let past = Past {
                cache: &mut cache,
                query_lens: &[text.len()],
            };
            let states = model.at_exit(hidden.clone(), exit, Some(past))?;
            let states = model.select(&states, &positions)?;
            predicted.push(model.best_tokens(&states, Head::Full(exit))?);
        }
        Ok(predicted)
    }

    /// Difference of the logits of two tokens after `text`.
    fn gap(&self, text: &[u32], exit: Exit, a: Option<u32>, b: Option<u32>) -> Result<Option<f32>> {
        let (Some(a), Some(b)) = (a, b) else {
            return Ok(None);
        };
        let model = &self.model.model;
        let logits = model.sub_model(&model.tokens(&[text.to_vec()])?, exit)?;
        let [_, seq, vocab] = logits.dims();
        let last = logits.narrow(1, seq - 1, 1).reshape([vocab]);
        let logits = last.try_into_vec_as::<f32>()?;
        Ok(Some(logits[a as usize] - logits[b as usize]))
    }
}
