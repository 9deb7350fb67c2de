//! Applies heads to packed states and computes only the output that is needed.
//!
//! Rows may need different heads and outputs; those that need the same are computed together. Draft
//! heads are restricted to some tokens; their outputs are converted to the full vocabulary.

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

/// A state to which a head is applied.
#[derive(Clone, Copy)]
pub(super) struct Picked {
    /// Index among the packed states; the states picked of a row are its newest.
    pub state: usize,
    /// Whether a score is needed in addition to the best token.
    pub scored: bool,
}

/// What is read of the logits. A larger one includes the best token of a smaller one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reading {
    Best,
    Scores,
    Logits,
}

/// The head that a state needs, a draft head or the full one, and what is read.
type Need = (bool, Reading);

impl<M: DecodeModel> Engine<'_, M> {
    /// Applies the heads of the exit of this index to the `picked` ones of packed states.
    pub fn apply_head(
        &mut self,
        index: usize,
        states: &Packed<M::Hidden>,
        picked: &[Picked],
    ) -> Result<Vec<HeadOutput>, DecodeError<M::Error>> {
        let needs = self.needs(index, states, picked);
        let mut distinct = needs.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let mut outputs: Vec<Option<HeadOutput>> = picked.iter().map(|_| None).collect();
        for need in distinct {
            let places = (0..picked.len()).filter(|&place| needs[place] == need);
            let places: Vec<usize> = places.collect();
            let picked: Vec<usize> = places.iter().map(|&place| picked[place].state).collect();
            let found = self.apply_one_head(index, states, &picked, need)?;
            for (place, output) in places.into_iter().zip(found) {
                outputs[place] = Some(output);
            }
        }
        Ok(outputs.into_iter().flatten().collect())
    }

    fn needs(&self, index: usize, states: &Packed<M::Hidden>, picked: &[Picked]) -> Vec<Need> {
        let need = |picked: &Picked| {
            let row = &self.rows[states.rows[picked.state]];
            let reading = match (row.needs_logits(), picked.scored) {
                (true, _) => Reading::Logits,
                (false, true) => Reading::Scores,
                (false, false) => Reading::Best,
            };
            (row.draft_head && row.exits.last() != index, reading)
        };
        let mut needs: Vec<Need> = picked.iter().map(need).collect();
        // One pass through the head serves the best tokens too.
        for draft in [false, true] {
            let same_head = needs.iter().filter(|(other, _)| *other == draft);
            let more = same_head
                .map(|(_, reading)| *reading)
                .filter(|it| *it > Reading::Best);
            let Some(least) = more.min() else { continue };
            for need in needs.iter_mut().filter(|need| need.0 == draft) {
                need.1 = need.1.max(least);
            }
        }
        needs
    }

    fn apply_one_head(
        &mut self,
        index: usize,
        states: &Packed<M::Hidden>,
        picked: &[usize],
        (draft, reading): Need,
    ) -> Result<Vec<HeadOutput>, DecodeError<M::Error>> {
        let hidden = self.head_states(index, states, picked)?;
        let rows: Vec<usize> = picked.iter().map(|&state| states.rows[state]).collect();
        let count = self.counted_states(&rows);
        let drafting = self.draft_heads.as_ref().filter(|_| draft);
        let head = match drafting {
            Some(draft) => {
                self.statistics.draft_head_states += count;
                Head::Draft(&draft.heads[index])
            }
            None => {
                self.statistics.head_states += count;
                self.statistics.head_passes += u64::from(count > 0);
                Head::Full(self.exits[index])
            }
        };
        let outputs = self.outputs(&hidden, head, reading);
        let outputs = outputs.map_err(DecodeError::Model)?;
        let Some(draft) = drafting else {
            return Ok(outputs);
        };
        let vocab = self.model.vocab();
        let full = |output: HeadOutput| output.in_vocabulary(&draft.tokens, vocab);
        Ok(outputs.into_iter().map(full).collect())
    }

    fn outputs(
        &self,
        hidden: &M::Hidden,
        head: Head<M::DraftHead>,
        reading: Reading,
    ) -> Result<Vec<HeadOutput>, M::Error> {
        let model = self.model;
        Ok(match reading {
            Reading::Logits => {
                let rows = model.logit_rows(hidden, head)?;
                rows.into_iter().map(HeadOutput::of_logits).collect()
            }
            Reading::Scores => {
                let scores = model.scores(hidden, head)?;
                scores.into_iter().map(HeadOutput::of_score).collect()
            }
            Reading::Best => {
                let tokens = model.best_tokens(hidden, head)?;
                tokens.into_iter().map(HeadOutput::of_token).collect()
            }
        })
    }

    /// The distribution to sample from after the tokens before `position`; `None` for greedy
    /// decoding without a penalty.
    pub fn distribution(
        &self,
        row: usize,
        position: usize,
        output: &HeadOutput,
    ) -> Result<Option<Distribution>, DecodeError<M::Error>> {
        let row = &self.rows[row];
        let logits = output.logits.as_ref();
        let Some(logits) = logits.filter(|_| !row.sampling.needs_only_the_best()) else {
            return Ok(None);
        };
        let distribution = row.sampling.distribution(logits, &row.tokens[..position]);
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
