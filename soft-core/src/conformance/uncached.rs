//! The reference for decoding: every sub-model on a whole text, without a cache.
//!
//! A causal model gives, at each position of one pass, the result for the text that ends there. So
//! one pass per exit checks all tokens of an answer.

use super::{LawBroken, Observed, failed};
use crate::exit::{Exit, Exits};
use crate::model::decode_model::Score;
use crate::policy::exit_policy::{ExitDecision, ExitPolicy, ExitSignals};
use crate::policy::probe::{ExitProbes, cosine_similarity};
use crate::random::Random;
use crate::sampling::sampler::Sampling;
use crate::sampling::sampler::SamplingError;

pub(super) struct Uncached {
    exits: Vec<Exit>,
    /// `[exit][position][vocab]`.
    logits: Vec<Vec<Vec<f64>>>,
    /// `[exit + 1][position][d_model]`, the embedding first.
    states: Vec<Vec<Vec<f32>>>,
    probes: ExitProbes,
}

impl Uncached {
    pub fn of<M: Observed>(
        law: &'static str,
        model: &M,
        (exits, probes): (&Exits, &ExitProbes),
        text: &[u32],
    ) -> Result<Self, LawBroken> {
        let tokens = model.tokens(&[text.to_vec()]).map_err(failed(law))?;
        let mut hidden = model.embed(&tokens).map_err(failed(law))?;
        let mut all_logits = Vec::new();
        let mut states = vec![model.read_states(&hidden).map_err(failed(law))?];
        for (segment, exit) in exits.segments().zip(exits.iter()) {
            hidden = model.blocks(hidden, segment, None).map_err(failed(law))?;
            let at_exit = model.at_exit(hidden.clone(), exit, None);
            let at_exit = at_exit.map_err(failed(law))?;
            let logits = model.logits(&at_exit, exit).map_err(failed(law))?;
            let logits = model.logit_values(&logits).map_err(failed(law))?;
            all_logits.extend(logits.into_iter().take(1));
            states.push(model.read_states(&hidden).map_err(failed(law))?);
        }
        Ok(Self {
            exits: exits.iter().collect(),
            logits: all_logits,
            states,
            probes: probes.clone(),
        })
    }

    /// The same with early exits that give `tokens` only.
    pub fn restricted_to(mut self, tokens: &[u32]) -> Self {
        let early = self.exits.len() - 1;
        for logits in self.logits[..early].iter_mut().flatten() {
            for (token, logit) in logits.iter_mut().enumerate() {
                if !tokens.contains(&(token as u32)) {
                    *logit = f64::NEG_INFINITY;
                }
            }
        }
        self
    }

    /// The logits of `exit` at `position`; empty for an unknown exit.
    pub fn logits(&self, exit: Exit, position: usize) -> &[f64] {
        let index = self.exits.iter().position(|candidate| *candidate == exit);
        index.map_or(&[], |index| &self.logits[index][position])
    }

    pub fn signals(&self, index: usize, position: usize) -> ExitSignals {
        let state = &self.states[index + 1][position];
        let probe = self.probes.at(self.exits[index]);
        ExitSignals {
            score: Some(Score::of_logits(&single(&self.logits[index][position]))),
            similarity: Some(cosine_similarity(&self.states[index][position], state)),
            probe: probe.map(|probe| probe.probability(state)),
        }
    }

    /// The exits that `policy` may choose for the token at `position` if every measured value may
    /// be off by `error`, at each exit independently. The exit without errors comes first.
    pub fn exits_within(
        &self,
        policy: &mut dyn ExitPolicy,
        position: usize,
        error: f32,
    ) -> Vec<Exit> {
        let [exact, raised, lowered] =
            [0.0, error, -error].map(|error| self.would_exit(policy, position, error));
        let full = self.exits.len() - 1;
        let first = |exits: &[bool]| exits.iter().position(|exits| *exits).unwrap_or(full);
        let (exact, last) = (first(&exact), first(&lowered));
        let possible = (0..last).filter(|&index| raised[index]).chain([last]);
        let others = possible.filter(|&index| index != exact);
        let exits = std::iter::once(exact).chain(others);
        exits.map(|index| self.exits[index]).collect()
    }

    /// Per exit before the last, whether `policy` ends there with all confidences raised by `error`.
    fn would_exit(&self, policy: &mut dyn ExitPolicy, position: usize, error: f32) -> Vec<bool> {
        policy.next_token();
        let would_exit = |index: usize| {
            let mut signals = self.signals(index, position);
            if let Some(score) = &mut signals.score {
                score.probability += error;
                score.entropy -= error;
            }
            signals.similarity = signals.similarity.map(|cosine| cosine + error);
            signals.probe = signals.probe.map(|probability| probability + error);
            policy.decide(self.exits[index], &signals) == ExitDecision::Exit
        };
        (0..self.exits.len() - 1).map(would_exit).collect()
    }
}

/// Reference implementation of the choice of the next token.
pub(super) struct Choice<'a> {
    pub sampling: &'a Sampling,
    /// One row of logits.
    pub logits: &'a [f64],
    /// The text so far.
    pub seen: &'a [u32],
    /// Error allowed in logits.
    pub tolerance: f64,
}

impl Choice<'_> {
    /// The expected token, if it is not in `found`.
    pub fn instead_of(
        &self,
        found: &[u32],
        rng: &mut Random,
    ) -> Result<Option<u32>, SamplingError> {
        if self.sampling.is_greedy() {
            return self.best_instead_of(found);
        }
        let wanted = self.distribution()?.sample(rng);
        // Rounding may move the draw to a neighboring token, which cannot be detected.
        Ok((self.tolerance == 0.0 && !found.contains(&wanted)).then_some(wanted))
    }

    /// Whether any of `found` can be drawn.
    pub fn allows(&self, found: &[u32]) -> Result<bool, SamplingError> {
        let distribution = self.distribution()?;
        let possible = |&token: &u32| distribution.probability(token) > 0.0;
        Ok(self.tolerance > 0.0 || found.iter().any(possible))
    }

    fn distribution(&self) -> Result<crate::sampling::distribution::Distribution, SamplingError> {
        self.sampling.distribution(&single(self.logits), self.seen)
    }

    fn best_instead_of(&self, found: &[u32]) -> Result<Option<u32>, SamplingError> {
        let scores = self.scores()?;
        let best = best_token(&scores);
        let behind = |token: u32| scores[best as usize] - scores[token as usize];
        let near = |&token: &u32| token == best || behind(token) < self.tolerance;
        Ok((!found.iter().any(near)).then_some(best))
    }

    /// The logits or, with a repetition penalty, the logarithms of the resulting probabilities.
    fn scores(&self) -> Result<Vec<f64>, SamplingError> {
        if self.sampling.repetition_penalty == 1.0 {
            return Ok(self.logits.to_vec());
        }
        let unfiltered = Sampling {
            temperature: 1.0,
            repetition_penalty: self.sampling.repetition_penalty,
            ..Sampling::greedy()
        };
        let distribution = unfiltered.distribution(&single(self.logits), self.seen)?;
        let tokens = 0..self.logits.len() as u32;
        Ok(tokens
            .map(|token| distribution.probability(token).ln())
            .collect())
    }
}

/// Index of the highest score, the first of equal ones.
pub(super) fn best_token(scores: &[f64]) -> u32 {
    let higher = |best: usize, next: usize| {
        if scores[next] > scores[best] {
            next
        } else {
            best
        }
    };
    (0..scores.len()).reduce(higher).unwrap_or(0) as u32
}

/// Logits in the single precision of samplers and scores.
pub(super) fn single(logits: &[f64]) -> Vec<f32> {
    logits.iter().map(|&logit| logit as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::exit_policy::Confidence;
    use crate::policy::thresholds::Thresholds;

    /// Probabilities of 1/2, a little more or less, at four exits.
    fn near_one_half(logits: [f64; 4]) -> Uncached {
        let exits = Exits::new([1, 2, 3, 4]).unwrap();
        Uncached {
            exits: exits.iter().collect(),
            logits: logits.map(|logit| vec![vec![0.0, logit]]).into(),
            states: vec![vec![vec![1.0]]; 5],
            probes: ExitProbes::new(Vec::new()),
        }
    }

    fn depths(uncached: &Uncached, threshold: f64, error: f32) -> Vec<usize> {
        let mut policy = Confidence(Thresholds::all(threshold));
        let exits = uncached.exits_within(&mut policy, 0, error);
        exits.into_iter().map(Exit::depth).collect()
    }

    #[test]
    fn each_exit_may_be_off_by_itself() {
        let uncached = near_one_half([0.004, 0.0, 0.004, 0.0]);
        assert_eq!(depths(&uncached, 0.5005, 0.0), [1]);
        assert_eq!(depths(&uncached, 0.5005, 0.001), [1, 2, 3, 4]);
        assert_eq!(depths(&uncached, 0.9, 0.001), [4]);
    }

    #[test]
    fn nothing_is_possible_after_a_certain_exit() {
        let uncached = near_one_half([0.0, 2.0, 2.0, 2.0]);
        assert_eq!(depths(&uncached, 0.5005, 0.001), [2, 1]);
        assert_eq!(depths(&uncached, 0.6, 0.001), [2]);
    }
}
