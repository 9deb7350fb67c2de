//! Exit thresholds that bound, with a given confidence, the share of tokens that differ from those
//! of the full model.
//!
//! The method is Learn then Test with fixed-sequence testing. One part of the texts yields a
//! sequence of candidate rules, from no early exits to all tokens at the first exit. On the other
//! part, each candidate in turn is tested against the hypothesis that its share of disagreeing
//! tokens exceeds the limit, until a hypothesis is not rejected. No correction for multiple testing
//! is needed, since the order is fixed beforehand. The test is a betting test with one bet per
//! text, since the texts are independent but not their tokens. A criterion is chosen by what the
//! first part predicts, before any test.
//!
//! Sources: Angelopoulos et al., *Learn then Test*, arXiv 2110.01052 (fixed-sequence testing);
//! Waudby-Smith & Ramdas, *Estimating means of bounded random variables by betting*, arXiv
//! 2010.09686, in the form of Bates et al., arXiv 2101.02703, section 3.1.2; Schuster et al.,
//! *CALM*, arXiv 2207.07061, which calibrates one threshold this way.

use serde::{Deserialize, Serialize};
use soft_core::Exits;
use soft_core::policy::{CalibratedExits, Criterion, ExitHead, ExitRule};
use soft_core::random::{self, Random};

use crate::candidates::candidates;
use crate::{EvalError, HeadCosts, PolicyOutcome, TokenTrace};

/// What is guaranteed, and how it is tested.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationSettings {
    /// Maximum share of tokens that may disagree with the full model, above 0 and below 1.
    pub disagreement: f64,
    /// Confidence of that limit, above 0 and below 1.
    pub confidence: f64,
    /// Share of the texts that candidates are made on, above 0 and below 1. The others test them.
    pub tuned_on: f64,
    /// Maximum number of tokens of a text. The test needs this bound, and it must not be taken from
    /// the texts themselves.
    pub longest: usize,
    /// Costs of heads, by which rules are compared. Default: none, that is by depth.
    #[serde(default)]
    pub heads: HeadCosts,
    /// The head of the early exits in the traces.
    #[serde(default)]
    pub head: ExitHead,
    /// Seed of the split.
    pub seed: u64,
}

impl CalibrationSettings {
    /// This limit for texts of at most `longest` tokens, with 95 % confidence. Candidates are made
    /// on a quarter of the texts: what the test can prove grows with the number of its texts.
    pub fn at_most(disagreement: f64, longest: usize) -> Self {
        Self {
            disagreement,
            confidence: 0.95,
            tuned_on: 0.25,
            longest,
            heads: HeadCosts::default(),
            head: ExitHead::Full,
            seed: 42,
        }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// A setting outside its range.
    pub fn validate(&self) -> Result<(), EvalError> {
        for (setting, value) in [
            ("disagreement", self.disagreement),
            ("confidence", self.confidence),
            ("tuned_on", self.tuned_on),
        ] {
            if !(value > 0.0 && value < 1.0) {
                return Err(EvalError::Setting {
                    setting,
                    expected: "a share above 0 and below 1",
                    found: value.to_string(),
                });
            }
        }
        Ok(())
    }
}

/// A calibrated rule and its results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// The rule, to store with the model.
    pub calibrated: CalibratedExits,
    /// What the texts that candidates were made on predict: the outcome there of the rule that
    /// passes the same test on them. A criterion must be chosen by it, since a choice among rules
    /// by what they reached in their tests breaks the limit more often than stated.
    pub tuning: PolicyOutcome,
    /// On the texts of the test.
    pub tested: PolicyOutcome,
    /// Whether texts of this number and length could prove the limit if no token disagreed.
    pub provable: bool,
}

/// The cheapest rule of this criterion among those that pass the test. It has no
/// early exits if no other passes.
///
/// # Errors
/// Settings outside their ranges; fewer than two texts with tokens; a text longer than
/// [`longest`](CalibrationSettings::longest); exits without an early one.
pub fn calibrate(
    criterion: Criterion,
    exits: &Exits,
    texts: &[Vec<TokenTrace>],
    settings: &CalibrationSettings,
) -> Result<Calibration, EvalError> {
    settings.validate()?;
    let (tuning, testing) = split(texts, settings)?;
    if let Some(found) = texts
        .iter()
        .map(Vec::len)
        .find(|length| *length > settings.longest)
    {
        return Err(EvalError::Setting {
            setting: "longest",
            expected: "a length that no text exceeds",
            found: format!("{} and a text of {found} tokens", settings.longest),
        });
    }
    let level = 1.0 - settings.confidence;
    let best_case: Vec<f64> = testing
        .iter()
        .map(|text| settings.loss(0, text.len()))
        .collect();
    let provable = rejects(&best_case, settings.disagreement, level);
    let candidates: Vec<Candidate> = candidates(criterion, (exits, settings.heads), &tuning)
        .into_iter()
        .map(|rule| {
            let outcome = PolicyOutcome::of(&*rule.policy(), exits, tuning.iter().copied());
            Candidate { rule, outcome }
        })
        .collect();
    let passing = |texts: &[&Vec<TokenTrace>]| {
        let found = cheapest_passing(&candidates, exits, texts, settings);
        found.ok_or_else(|| EvalError::Setting {
            setting: "exits",
            expected: "an exit before the full depth",
            found: exits.to_string(),
        })
    };
    let (rule, predicted) = (passing(&testing)?.rule.clone(), passing(&tuning)?);
    let tested = PolicyOutcome::of(&*rule.policy(), exits, testing.iter().copied());
    Ok(Calibration {
        calibrated: CalibratedExits {
            rule,
            exits: exits.clone(),
            head: settings.head,
            disagreement: settings.disagreement,
            confidence: settings.confidence,
            mean_depth: tested.mean_depth,
            texts: testing.len() as u64,
            tokens: tested.tokens,
            longest: Some(settings.longest as u64),
            data: String::new(),
        },
        tuning: predicted.outcome.clone(),
        tested,
        provable,
    })
}

struct Candidate {
    rule: ExitRule,
    /// On the texts that candidates were made on.
    outcome: PolicyOutcome,
}

/// The cheapest candidate among those before the first that `texts` do not prove.
fn cheapest_passing<'a>(
    candidates: &'a [Candidate],
    exits: &Exits,
    texts: &[&Vec<TokenTrace>],
    settings: &CalibrationSettings,
) -> Option<&'a Candidate> {
    let passes = |candidate: &&Candidate| {
        never_exits(&candidate.rule, exits) || {
            let losses = losses(&candidate.rule, exits, texts, settings);
            rejects(&losses, settings.disagreement, 1.0 - settings.confidence)
        }
    };
    let cost = |candidate: &Candidate| candidate.outcome.cost(settings.heads);
    let passing = candidates.iter().take_while(passes);
    passing.reduce(
        |best, next| {
            if cost(next) < cost(best) { next } else { best }
        },
    )
}

/// Texts that candidates are made on, and texts of the test.
type Parts<'a> = (Vec<&'a Vec<TokenTrace>>, Vec<&'a Vec<TokenTrace>>);

fn split<'a>(
    texts: &'a [Vec<TokenTrace>],
    settings: &CalibrationSettings,
) -> Result<Parts<'a>, EvalError> {
    let mut order: Vec<&Vec<TokenTrace>> = texts.iter().filter(|text| !text.is_empty()).collect();
    if order.len() < 2 {
        return Err(EvalError::Setting {
            setting: "texts",
            expected: "at least two that have tokens",
            found: order.len().to_string(),
        });
    }
    shuffle(&mut order, settings.seed);
    let tuned = (settings.tuned_on * order.len() as f64).round() as usize;
    let testing = order.split_off(tuned.clamp(1, order.len() - 1));
    Ok((order, testing))
}

/// Shuffles items, as the seed determines.
pub fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut rng = Random::new(seed);
    random::shuffle(items, |bound| (rng.uniform() * bound as f64) as usize);
}

fn never_exits(rule: &ExitRule, exits: &Exits) -> bool {
    match rule {
        ExitRule::Patience(patience) => *patience >= exits.len(),
        ExitRule::Entropy(thresholds) => never(exits, |exit| thresholds.at(exit), |t| t <= 0.0),
        ExitRule::Confidence(thresholds)
        | ExitRule::Margin(thresholds)
        | ExitRule::Probe(thresholds)
        | ExitRule::Saturation(thresholds) => {
            never(exits, |exit| thresholds.at(exit), |t| t >= 1.0)
        }
    }
}

fn never(
    exits: &Exits,
    threshold: impl Fn(soft_core::Exit) -> Option<f64>,
    stays: impl Fn(f64) -> bool,
) -> bool {
    let mut early = exits.iter().take(exits.len() - 1);
    early.all(|exit| threshold(exit).is_none_or(&stays))
}

impl CalibrationSettings {
    /// The loss of a text, from 0 to 1: (D + limit · (longest − N)) / longest, if D of N tokens
    /// disagree. This pads the text to `longest` with tokens that disagree at the limit, so that
    /// the mean over texts is at most the limit exactly if the share of all tokens is.
    fn loss(&self, disagreeing: u64, tokens: usize) -> f64 {
        let longest = self.longest.max(1) as f64;
        (disagreeing as f64 + self.disagreement * (longest - tokens as f64)) / longest
    }
}

fn losses(
    rule: &ExitRule,
    exits: &Exits,
    texts: &[&Vec<TokenTrace>],
    settings: &CalibrationSettings,
) -> Vec<f64> {
    let policy = rule.policy();
    let loss = |text: &&Vec<TokenTrace>| {
        let outcome = PolicyOutcome::of(&*policy, exits, [*text]);
        settings.loss(outcome.disagreeing, text.len())
    };
    texts.iter().map(loss).collect()
}

/// Whether the hypothesis "the mean of these numbers from 0 to 1 is `limit` or more" is rejected at
/// level `level`.
///
/// The wealth of a bettor against the hypothesis is a supermartingale under it. By Ville's
/// inequality it reaches 1 / `level` with a probability of at most `level`. The stake depends on
/// the earlier numbers only and is at most the whole wealth.
fn rejects(losses: &[f64], limit: f64, level: f64) -> bool {
    let count = losses.len() as f64;
    let (mut sum, mut squares, mut variance) = (0.5, 0.25, 0.25);
    let mut wealth: f64 = 1.0;
    for (index, loss) in losses.iter().enumerate() {
        let stake = (2.0 * (1.0 / level).ln() / (count * variance))
            .sqrt()
            .min(1.0);
        wealth *= 1.0 - stake * (loss - limit);
        if wealth >= 1.0 / level {
            return true;
        }
        let seen = index as f64 + 2.0;
        sum += loss;
        squares += (loss - sum / seen).powi(2);
        variance = squares / seen;
    }
    false
}

#[cfg(test)]
mod tests;
