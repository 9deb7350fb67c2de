//! Traces what every exit predicts at each position of a text, and applies exit policies to the
//! traces.
//!
//! One pass of the full model per text is enough for any number of policies and thresholds. A
//! decoder later computes the keys and values that an early exit skips, so the trace is what it
//! sees when it generates this text.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use soft_core::model::{Head, Score};
use soft_core::policy::{ExitDecision, ExitProbes, ExitSignals, Signal, cosine_similarity};
use soft_core::{DecodeModel, Exit, ExitPolicy, Exits, Past};

/// One position of a text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenTrace {
    /// The prediction of each early exit, shallowest first.
    pub early: Vec<EarlyTrace>,
    /// The prediction of the full model.
    pub full: u32,
}

/// One early exit at one position.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EarlyTrace {
    /// The score of the head.
    pub score: Score,
    /// Cosine similarity to the state at the exit before (for the first, to the embedding).
    pub similarity: f32,
    /// The probability by the exit's probe; `None` without probes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<f32>,
}

/// What to trace.
#[derive(Clone, Copy, Debug)]
pub struct Tracing<'a> {
    /// The exits; the last is the full model.
    pub exits: &'a Exits,
    /// The tokens of the early exits' heads: all, or those of a draft head.
    pub draft_tokens: Option<&'a [u32]>,
    /// The probes of the early exits, if any.
    pub probes: Option<&'a ExitProbes>,
}

impl<'a> From<&'a Exits> for Tracing<'a> {
    /// Full heads, without probes.
    fn from(exits: &'a Exits) -> Self {
        Self {
            exits,
            draft_tokens: None,
            probes: None,
        }
    }
}

/// A traced text, and the hidden states that probes see.
#[derive(Clone, Debug, Default)]
pub struct TracedStates {
    /// One per position.
    pub tokens: Vec<TokenTrace>,
    /// The state of every early exit, `[exit][position][d_model]`.
    pub states: Vec<Vec<Vec<f32>>>,
}

/// Where a token exits under a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyExit {
    /// Index of the exit.
    pub exit: usize,
    /// The token.
    pub token: u32,
    /// Number of heads of early exits applied.
    pub early_heads: usize,
}

/// Traces the predictions at `positions` of `text`, which are for the tokens at index
/// `positions.start + 1` to `positions.end`. The last may be a stop token after the end of the
/// text.
///
/// For an answer, start at its first token, since the pass over the prompt generates that one with
/// the full model under every policy.
///
/// # Errors
/// Errors of the model, and probes that do not fit it.
///
/// # Panics
/// If `positions` are outside the text.
pub fn trace<'a, M: DecodeModel>(
    model: &M,
    tracing: impl Into<Tracing<'a>>,
    text: &[u32],
    positions: Range<usize>,
) -> Result<Vec<TokenTrace>, M::Error> {
    trace_states(model, tracing, text, positions).map(|traced| traced.tokens)
}

/// As [`trace()`], with the hidden states.
///
/// # Errors
/// See [`trace()`].
///
/// # Panics
/// See [`trace()`].
pub fn trace_states<'a, M: DecodeModel>(
    model: &M,
    tracing: impl Into<Tracing<'a>>,
    text: &[u32],
    positions: Range<usize>,
) -> Result<TracedStates, M::Error> {
    assert!(positions.end <= text.len(), "positions beyond the text");
    if positions.is_empty() {
        return Ok(TracedStates::default());
    }
    let tracing = tracing.into();
    let exits = tracing.exits;
    let mut cache = model.empty_cache(1, positions.end)?;
    let wanted: Vec<usize> = positions.clone().collect();
    let tokens = model.tokens(&[text[..positions.end].to_vec()])?;
    let mut hidden = model.embed(&tokens)?;
    let mut before = model.read_states(&model.select(&hidden, &wanted)?)?;
    let mut early: Vec<Vec<EarlyTrace>> = vec![Vec::new(); wanted.len()];
    let (mut full, mut states) = (Vec::new(), Vec::new());
    for (segment, exit) in exits.segments().zip(exits.iter()) {
        let past = Past {
            cache: &mut cache,
            query_lens: &[positions.end],
        };
        hidden = model.blocks(hidden, segment, Some(past))?;
        let past = Past {
            cache: &mut cache,
            query_lens: &[positions.end],
        };
        let at_exit = model.at_exit(hidden.clone(), exit, Some(past))?;
        let at_exit = model.select(&at_exit, &wanted)?;
        if exit == exits.last() {
            full = model.best_tokens(&at_exit, Head::Full(exit))?;
            break;
        }
        let scores = tracing.scores(model, &at_exit, exit)?;
        let after = model.read_states(&model.select(&hidden, &wanted)?)?;
        let pairs = scores.into_iter().zip(before.iter().zip(&after));
        for (early, (score, (before, after))) in early.iter_mut().zip(pairs) {
            let probe = tracing.probes.and_then(|probes| probes.at(exit));
            early.push(EarlyTrace {
                score,
                similarity: cosine_similarity(before, after),
                probe: probe.map(|probe| probe.probability(after)),
            });
        }
        states.push(after.clone());
        before = after;
    }
    let tokens = early.into_iter().zip(full);
    let tokens = tokens.map(|(early, full)| TokenTrace { early, full });
    Ok(TracedStates {
        tokens: tokens.collect(),
        states,
    })
}

impl Tracing<'_> {
    fn scores<M: DecodeModel>(
        &self,
        model: &M,
        at_exit: &M::Hidden,
        exit: Exit,
    ) -> Result<Vec<Score>, M::Error> {
        let Some(tokens) = self.draft_tokens else {
            return model.scores(at_exit, Head::Full(exit));
        };
        // In the order of the ids, of which the lowest wins a tie.
        let mut tokens = tokens.to_vec();
        tokens.sort_unstable();
        tokens.dedup();
        let head = model.draft_head(exit, &tokens)?;
        let scores = model.scores(at_exit, Head::Draft(&head))?;
        let named = |score: Score| Score {
            token: tokens[score.token as usize],
            ..score
        };
        Ok(scores.into_iter().map(named).collect())
    }
}

impl TokenTrace {
    /// Where the token exits under a policy. `exits` are those of the trace.
    pub fn exit_under(&self, policy: &mut dyn ExitPolicy, exits: &[Exit]) -> PolicyExit {
        policy.next_token();
        let mut early_heads = 0;
        for (index, (early, &exit)) in self.early.iter().zip(exits).enumerate() {
            let mut signals = ExitSignals::default();
            let decision = loop {
                match policy.decide(exit, &signals) {
                    ExitDecision::Ask(Signal::Score) => signals.score = Some(early.score),
                    ExitDecision::Ask(Signal::Similarity) => {
                        signals.similarity = Some(early.similarity);
                    }
                    // Never sure without a probe.
                    ExitDecision::Ask(Signal::Probe) => {
                        signals.probe = Some(early.probe.unwrap_or(0.0));
                    }
                    decision => break decision,
                }
            };
            early_heads += usize::from(signals.score.is_some());
            if decision == ExitDecision::Exit {
                // The token needs a head, even if the policy asked for none.
                early_heads += usize::from(signals.score.is_none());
                let token = early.score.token;
                return PolicyExit {
                    exit: index,
                    token,
                    early_heads,
                };
            }
        }
        PolicyExit {
            exit: self.early.len(),
            token: self.full,
            early_heads,
        }
    }
}

/// The result of a policy on texts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyOutcome {
    /// Number of tokens.
    pub tokens: u64,
    /// Number of tokens that differ from the full model's.
    pub disagreeing: u64,
    /// Number of tokens by exit, the full depth last.
    pub by_exit: Vec<u64>,
    /// Mean depth of the exits.
    pub mean_depth: f64,
    /// Mean number of heads per token, those of early exits and of the full depth.
    pub heads_per_token: f64,
}

/// The costs of heads, in blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadCosts {
    /// The full model's head.
    pub full: f64,
    /// The head of an early exit, which may be a draft head.
    pub early: f64,
}

impl PolicyOutcome {
    /// Share of tokens that disagree with the full model; 0 without tokens.
    pub fn disagreement(&self) -> f64 {
        self.disagreeing as f64 / self.tokens.max(1) as f64
    }

    /// The mean cost of a token in blocks, with the heads.
    pub fn cost(&self, heads: HeadCosts) -> f64 {
        let full = self.by_exit.last().copied().unwrap_or(0) as f64 / self.tokens.max(1) as f64;
        let early = self.heads_per_token - full;
        self.mean_depth + early * heads.early + full * heads.full
    }

    /// Applies a policy to traced texts.
    pub fn of<'a>(
        policy: &dyn ExitPolicy,
        exits: &Exits,
        texts: impl IntoIterator<Item = &'a Vec<TokenTrace>>,
    ) -> Self {
        let depths: Vec<_> = exits.iter().collect();
        let mut outcome = Self {
            by_exit: vec![0; depths.len()],
            ..Self::default()
        };
        let mut heads = 0;
        for text in texts {
            let mut policy = policy.for_row();
            for token in text {
                let exited = token.exit_under(&mut *policy, &depths);
                outcome.tokens += 1;
                outcome.disagreeing += u64::from(exited.token != token.full);
                outcome.by_exit[exited.exit] += 1;
                heads += exited.early_heads + usize::from(exited.exit == token.early.len());
            }
        }
        let depth_sum: f64 = outcome
            .by_exit
            .iter()
            .zip(&depths)
            .map(|(&tokens, exit)| tokens as f64 * exit.depth() as f64)
            .sum();
        let tokens = outcome.tokens.max(1) as f64;
        outcome.mean_depth = depth_sum / tokens;
        outcome.heads_per_token = heads as f64 / tokens;
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use soft_core::decode::DynamicExits;
    use soft_core::policy::{Confidence, Margin, Patience, Saturation};
    use soft_core::toy::ToyModel;
    use soft_core::{DecodeSettings, Decoder, Mode, Prompt, Thresholds};

    /// The tokens of a dynamic answer, with the depth of their exits.
    fn decoded(model: &ToyModel, exits: &Exits, policy: Box<dyn ExitPolicy>) -> Vec<(u32, usize)> {
        let settings =
            DecodeSettings::greedy(Mode::Dynamic(DynamicExits::new(exits.clone(), policy)), 30);
        let prompt = Prompt::from(vec![3, 1, 2]);
        let decoder = Decoder::new(model, std::slice::from_ref(&prompt), settings).unwrap();
        let step = |step: Result<soft_core::decode::Step, _>| {
            step.map(|step| (step.token, step.exit.depth()))
        };
        decoder.map(step).collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn a_trace_of_a_dynamic_answer_exits_where_the_decoder_did() {
        let exits = Exits::new([1, 2, 4]).unwrap();
        let policies: [fn() -> Box<dyn ExitPolicy>; 4] = [
            || Box::new(Confidence(Thresholds::all(0.3))),
            || Box::new(Margin(Thresholds::all(0.1))),
            || Box::new(Saturation(Thresholds::all(0.9))),
            || Box::new(Patience::new(2)),
        ];
        let mut early = 0;
        for seed in 0..20 {
            let model = ToyModel::new(4, 6, 12, seed).restless();
            let own = exits
                .iter()
                .filter(|exit| seed % 2 == 0 && exit.depth() == 2);
            let model = model.with_exit_blocks(own);
            for policy in policies {
                let answer = decoded(&model, &exits, policy());
                let tokens = answer.iter().map(|(token, _)| *token);
                let text: Vec<u32> = [3, 1, 2].into_iter().chain(tokens).collect();
                let traces = trace(&model, &exits, &text, 2..text.len() - 1).unwrap();
                let depths: Vec<_> = exits.iter().collect();
                let mut policy = policy();
                for (index, ((token, depth), traced)) in answer.iter().zip(&traces).enumerate() {
                    // The prompt's pass generates the first token with the full model.
                    if index == 0 {
                        assert_eq!(*token, traced.full);
                        continue;
                    }
                    let exited = traced.exit_under(&mut *policy, &depths);
                    assert_eq!(
                        (exited.token, depths[exited.exit].depth()),
                        (*token, *depth)
                    );
                    early += usize::from(*depth < 4);
                }
            }
        }
        assert!(early > 100, "only {early} tokens exited early");
    }

    #[test]
    fn outcomes_count_heads_and_depths() {
        let score = |token, probability| Score {
            token,
            probability,
            second: 0.0,
            entropy: 0.0,
        };
        let token = |first: Score, second: Score, full| TokenTrace {
            early: vec![first, second]
                .into_iter()
                .map(|score| EarlyTrace {
                    score,
                    similarity: 0.0,
                    probe: None,
                })
                .collect(),
            full,
        };
        let text = vec![
            token(score(1, 0.9), score(2, 0.9), 2), // exits at 2, wrong
            token(score(1, 0.1), score(2, 0.9), 2), // exits at 4, right
            token(score(1, 0.1), score(2, 0.1), 3), // full depth
        ];
        let exits = Exits::new([2, 4, 8]).unwrap();
        let outcome = PolicyOutcome::of(&Confidence(Thresholds::all(0.5)), &exits, [&text]);
        assert_eq!(outcome.by_exit, [1, 1, 1]);
        assert_eq!((outcome.tokens, outcome.disagreeing), (3, 1));
        assert!((outcome.mean_depth - 14.0 / 3.0).abs() < 1e-12);
        assert!((outcome.heads_per_token - 6.0 / 3.0).abs() < 1e-12);
        // One token uses the full head, and the three ask five early ones.
        let heads = HeadCosts {
            full: 3.0,
            early: 0.5,
        };
        let cost = (14.0 + 3.0 + 5.0 * 0.5) / 3.0;
        assert!((outcome.cost(heads) - cost).abs() < 1e-12);
    }
}
