//! Candidate exit rules, from one without early exits to one under which every token exits early.
//!
//! All thresholds of a candidate follow from one number, the price of a disagreement: a token exits
//! if its probability of disagreement, given its confidence, is at most the price times the share
//! of the cost saved, in blocks and heads. The probability is estimated by isotonic regression on
//! the tokens that reach this exit at the same price.
//!
//! Source: Ayer et al., 1955 (pool adjacent violators).

use soft_core::policy::{Criterion, ExitRule};
use soft_core::{Exit, Exits, Thresholds};

use crate::{HeadCosts, TokenTrace};

/// Number of prices, from 10⁻³ to 1 in steps of about a sixth.
const PRICES: usize = 46;
const LOWEST_PRICE: f64 = 1e-3;
const STEP: f64 = 1.166;

/// Rules of this criterion in the order of the test, made on `texts`: the first has no early exits,
/// under the last every token exits early, and the price rises in between.
pub(crate) fn candidates(
    criterion: Criterion,
    (exits, heads): (&Exits, HeadCosts),
    texts: &[&Vec<TokenTrace>],
) -> Vec<ExitRule> {
    let early = exits.len() - 1;
    if early == 0 {
        return Vec::new();
    }
    let mut rules = match criterion {
        Criterion::Patience => return (1..=early + 1).rev().map(ExitRule::Patience).collect(),
        _ => vec![never(criterion)],
    };
    for step in 0..PRICES {
        let price = LOWEST_PRICE * STEP.powi(step as i32);
        let thresholds = thresholds(criterion, (exits, heads), texts, price);
        let rule = criterion.rule(Thresholds::each(thresholds));
        rules.extend(rule.filter(|rule| rules.last() != Some(rule)));
    }
    rules.push(always(criterion));
    rules
}

fn never(criterion: Criterion) -> ExitRule {
    match criterion {
        Criterion::Confidence => ExitRule::Confidence(Thresholds::all(1.0)),
        Criterion::Margin => ExitRule::Margin(Thresholds::all(1.0)),
        Criterion::Entropy => ExitRule::Entropy(Thresholds::all(0.0)),
        Criterion::Probe => ExitRule::Probe(Thresholds::all(1.0)),
        Criterion::Saturation => ExitRule::Saturation(Thresholds::all(1.0)),
        Criterion::Patience => ExitRule::Patience(usize::MAX),
    }
}

/// The rule under which every token exits at the first exit.
fn always(criterion: Criterion) -> ExitRule {
    match criterion {
        Criterion::Confidence => ExitRule::Confidence(Thresholds::all(0.0)),
        // A margin of exactly 0, of two equally likely tokens, does not exit.
        Criterion::Margin => ExitRule::Margin(Thresholds::all(0.0)),
        // In nats: no distribution over fewer than 10²⁷ tokens exceeds it.
        Criterion::Entropy => ExitRule::Entropy(Thresholds::all(64.0)),
        Criterion::Probe => ExitRule::Probe(Thresholds::all(0.0)),
        Criterion::Saturation => ExitRule::Saturation(Thresholds::all(-1.0)),
        Criterion::Patience => ExitRule::Patience(1),
    }
}

fn thresholds(
    criterion: Criterion,
    (exits, heads): (&Exits, HeadCosts),
    texts: &[&Vec<TokenTrace>],
    price: f64,
) -> Vec<(Exit, f64)> {
    let mut continuing: Vec<&TokenTrace> = texts.iter().flat_map(|text| text.iter()).collect();
    let plain = exits.last().depth() as f64 + heads.full;
    let early = exits.iter().take(exits.len() - 1).enumerate();
    let mut found = Vec::new();
    for (index, exit) in early {
        let saved = (plain - exit.depth() as f64 - heads.early) / plain;
        let sureness = |token: &TokenTrace| sureness(criterion, token, index);
        let mut seen: Vec<(f64, bool)> = continuing
            .iter()
            .map(|token| {
                (
                    sureness(token),
                    token.early[index].score.token != token.full,
                )
            })
            .collect();
        seen.sort_by(|a, b| b.0.total_cmp(&a.0));
        let least = least_sure(&seen, price * saved);
        let threshold = rounded(criterion, least);
        continuing.retain(|token| !exits_under(criterion, threshold, token, index));
        found.push((exit, threshold));
    }
    found
}

/// The value of the criterion, negated if lower values exit.
fn sureness(criterion: Criterion, token: &TokenTrace, index: usize) -> f64 {
    let early = token.early[index];
    let evidence = soft_core::policy::ExitSignals {
        score: Some(early.score),
        similarity: Some(early.similarity),
        probe: early.probe,
    };
    let value = criterion.of(&evidence).unwrap_or(f64::NEG_INFINITY);
    if criterion.is_doubt() { -value } else { value }
}

/// The lowest sureness at which the estimated probability of disagreement is at most `limit`;
/// `None` if it exceeds the limit everywhere. `seen` holds sureness and disagreement by falling
/// sureness.
fn least_sure(seen: &[(f64, bool)], limit: f64) -> Option<f64> {
    // Blocks of rising probability: disagreeing tokens, tokens, lowest sureness.
    let mut blocks: Vec<(f64, f64, f64)> = Vec::new();
    for &(sureness, disagrees) in seen {
        let mut block = (f64::from(u8::from(disagrees)), 1.0, sureness);
        while let Some(&(above, tokens, last)) = blocks.last() {
            // A threshold cannot separate tokens of equal sureness.
            if last > block.2 && above / tokens < block.0 / block.1 {
                break;
            }
            blocks.pop();
            block = (block.0 + above, block.1 + tokens, block.2);
        }
        blocks.push(block);
    }
    let kept = blocks.iter().take_while(|block| block.0 / block.1 <= limit);
    kept.last().map(|block| block.2)
}

/// A threshold of four decimals at which the token of sureness `least` exits. Less sure tokens
/// within the rounding exit too, which the test takes into account.
fn rounded(criterion: Criterion, least: Option<f64>) -> f64 {
    const DECIMALS: f64 = 1e4;
    match (criterion.is_doubt(), least) {
        (true, None) => 0.0,
        (false, None) => 1.0,
        // The policies compare strictly, and in single precision.
        (true, Some(least)) => ((-least * DECIMALS).floor() + 1.0) / DECIMALS,
        (false, Some(least)) => {
            let below = ((least * DECIMALS).ceil() - 1.0) / DECIMALS;
            match criterion {
                Criterion::Saturation => below.max(-1.0),
                _ => below.max(0.0),
            }
        }
    }
}

fn exits_under(criterion: Criterion, threshold: f64, token: &TokenTrace, index: usize) -> bool {
    let sureness = sureness(criterion, token, index);
    if criterion.is_doubt() {
        -sureness < threshold
    } else {
        threshold < 1.0 && sureness > threshold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_pooled_by_hand() {
        // The third token disagrees, the next two agree: the pooled probability is 1/3.
        let seen = [
            (0.9, false),
            (0.8, false),
            (0.7, true),
            (0.6, false),
            (0.5, false),
            (0.4, true),
        ];
        assert_eq!(least_sure(&seen, 0.0), Some(0.8));
        assert_eq!(least_sure(&seen, 0.3), Some(0.8));
        assert_eq!(least_sure(&seen, 0.34), Some(0.5));
        assert_eq!(least_sure(&seen, 1.0), Some(0.4));
        assert_eq!(least_sure(&[(0.9, true), (0.9, false)], 0.4), None);
        assert_eq!(least_sure(&[(0.9, true), (0.9, false)], 0.5), Some(0.9));
        assert_eq!(least_sure(&[], 1.0), None);
    }

    #[test]
    fn a_threshold_lets_its_own_token_exit() {
        for least in [0.12345, 0.5, 0.9999, 1.0] {
            assert!(rounded(Criterion::Confidence, Some(least)) < least);
            assert!(rounded(Criterion::Entropy, Some(-least)) > least);
        }
        assert_eq!(rounded(Criterion::Confidence, None), 1.0);
        assert_eq!(rounded(Criterion::Entropy, None), 0.0);
        assert_eq!(rounded(Criterion::Margin, Some(0.0)), 0.0);
    }
}
