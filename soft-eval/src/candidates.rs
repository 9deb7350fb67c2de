//! Candidate exit rules, from one under which no token exits early to one under which every token
//! does.
//!
//! A rule has a threshold per exit. All thresholds of a candidate follow from one number, the price
//! of a disagreement: a token exits where its probability of disagreement, at this confidence, is
//! at most the price times the share of blocks that exiting saves. The chance is estimated by
//! isotonic regression on the tokens that got as far as this exit under the same price. Knows
//! traced texts, and no promise.
//!
//! Source of the regression: Ayer et al., 1955 (pool adjacent violators).

use soft_core::policy::{Criterion, ExitRule};
use soft_core::{Exit, Exits, Thresholds};

use crate::TokenTrace;

/// Prices tried: from a disagreement of one token in a thousand for the whole depth to any, in
/// steps of a sixth.
const PRICES: usize = 46;
const LOWEST_PRICE: f64 = 1e-3;
const STEP: f64 = 1.166;

/// Rules of this criterion in the order in which they are to be tested: the first never exits, the
/// last always does, and in between the price of a disagreement rises; made on `texts`.
pub(crate) fn candidates(
    criterion: Criterion,
    exits: &Exits,
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
        let thresholds = thresholds(criterion, exits, texts, price);
        let rule = criterion.rule(Thresholds::each(thresholds));
        rules.extend(rule.filter(|rule| rules.last() != Some(rule)));
    }
    rules.push(always(criterion));
    rules
}

/// The rule under which no token exits early.
fn never(criterion: Criterion) -> ExitRule {
    match criterion {
        Criterion::Confidence => ExitRule::Confidence(Thresholds::all(1.0)),
        Criterion::Margin => ExitRule::Margin(Thresholds::all(1.0)),
        Criterion::Entropy => ExitRule::Entropy(Thresholds::all(0.0)),
        Criterion::Saturation => ExitRule::Saturation(Thresholds::all(1.0)),
        Criterion::Patience => ExitRule::Patience(usize::MAX),
    }
}

/// The rule under which every token exits at the first exit.
fn always(criterion: Criterion) -> ExitRule {
    match criterion {
        Criterion::Confidence => ExitRule::Confidence(Thresholds::all(0.0)),
        // Above no margin at all: two equal best tokens stay.
        Criterion::Margin => ExitRule::Margin(Thresholds::all(0.0)),
        // No distribution over a vocabulary of 2⁶⁴ tokens is more doubtful.
        Criterion::Entropy => ExitRule::Entropy(Thresholds::all(64.0)),
        Criterion::Saturation => ExitRule::Saturation(Thresholds::all(-1.0)),
        Criterion::Patience => ExitRule::Patience(1),
    }
}

/// The threshold of every early exit at this price.
fn thresholds(
    criterion: Criterion,
    exits: &Exits,
    texts: &[&Vec<TokenTrace>],
    price: f64,
) -> Vec<(Exit, f64)> {
    let mut continuing: Vec<&TokenTrace> = texts.iter().flat_map(|text| text.iter()).collect();
    let depth = exits.last().depth() as f64;
    let early = exits.iter().take(exits.len() - 1).enumerate();
    let mut found = Vec::new();
    for (index, exit) in early {
        let saved = (depth - exit.depth() as f64) / depth;
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
        // The surest first.
        seen.sort_by(|a, b| b.0.total_cmp(&a.0));
        let least = least_sure(&seen, price * saved);
        let threshold = rounded(criterion, least);
        continuing.retain(|token| !exits_under(criterion, threshold, token, index));
        found.push((exit, threshold));
    }
    found
}

/// How confident an exit is.
fn sureness(criterion: Criterion, token: &TokenTrace, index: usize) -> f64 {
    let early = token.early[index];
    let evidence = soft_core::policy::ExitSignals {
        score: Some(early.score),
        similarity: Some(early.similarity),
    };
    let value = criterion.of(&evidence).unwrap_or(f64::NEG_INFINITY);
    if criterion.is_doubt() { -value } else { value }
}

/// The sureness down to which tokens, sorted by falling sureness, disagree with an estimated chance
/// of at most `limit`; none when not even the surest do.
fn least_sure(seen: &[(f64, bool)], limit: f64) -> Option<f64> {
    // Blocks of rising chance: disagreeing, tokens, sureness of the last.
    let mut blocks: Vec<(f64, f64, f64)> = Vec::new();
    for &(sureness, disagrees) in seen {
        let mut block = (f64::from(u8::from(disagrees)), 1.0, sureness);
        while let Some(&(above, tokens, last)) = blocks.last() {
            // Equal sureness cannot be parted by a threshold.
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

/// A threshold of four decimals that the least sure token to leave passes; tokens hardly less sure
/// may pass too, which the test takes into account.
fn rounded(criterion: Criterion, least: Option<f64>) -> f64 {
    const DECIMALS: f64 = 1e4;
    match (criterion.is_doubt(), least) {
        (true, None) => 0.0,
        (false, None) => 1.0,
        // Strictly below the token's sureness, or above its doubt, in single precision too.
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
        // Falling sureness; the third disagrees and is followed by two that agree: pooled they
        // disagree in one of three.
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
