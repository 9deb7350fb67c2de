//! Verification of a drafted token such that the answer has the full model's distribution.
//!
//! A token drafted from q and verified against p has exactly the distribution p for any draft.
//!
//! Sources: Leviathan, Kalman, Matias, *Fast Inference from Transformers via Speculative Decoding*,
//! arXiv 2211.17192, section 2.3; Chen et al., *Accelerating Large Language Model Decoding with
//! Speculative Sampling*, arXiv 2302.01318, algorithm 2.

use crate::random::Random;
use crate::sampling::distribution::Distribution;

/// The result of verifying a drafted token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// The drafted token is accepted.
    Accepted,
    /// The drafted token, and every token drafted after it, is replaced by this one.
    Replaced(u32),
}

/// Accepts `drafted`, sampled from `draft`, with probability min(1, p/q), where p is its
/// probability under `full` and q under `draft`; otherwise draws from the
/// [residual](Distribution::residual) of `full`.
///
/// Both distributions are for the same position, each with its own temperature and filters. For two
/// [points](Distribution::point) this is the equality test of greedy self-speculation. Draws one
/// number from `rng` for the decision and one more for a replacement.
///
/// A token that `draft` could not sample is replaced: accepting it would change the distribution.
pub fn verify_draft(
    drafted: u32,
    draft: &Distribution,
    full: &Distribution,
    rng: &mut Random,
) -> Verification {
    let (p, q) = (full.probability(drafted), draft.probability(drafted));
    // u < p/q without the division: never true for p = 0, always for p ≥ q > 0.
    let stands = rng.uniform() * q < p;
    if stands && q > 0.0 {
        Verification::Accepted
    } else {
        Verification::Replaced(full.residual(draft).sample(rng))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::distribution::tests::distributions;
    use proptest::prelude::*;

    #[test]
    fn between_points_it_is_equality() {
        let point = Distribution::point;
        for seed in 0..50 {
            let mut rng = Random::new(seed);
            let same = verify_draft(3, &point(3), &point(3), &mut rng);
            let other = verify_draft(3, &point(3), &point(5), &mut rng);
            assert_eq!(
                (same, other),
                (Verification::Accepted, Verification::Replaced(5))
            );
        }
    }

    #[test]
    fn what_the_draft_could_not_sample_is_replaced() {
        let mut rng = Random::new(1);
        let full = Distribution::in_proportion(vec![(1, 0.5), (2, 0.5)]).unwrap();
        let checked = verify_draft(1, &Distribution::point(2), &full, &mut rng);
        assert_eq!(checked, Verification::Replaced(1));
    }

    /// The exact probability that drafting and verification give `token`: it was drafted and
    /// accepted, or it replaces a rejected token.
    fn comes_out(token: u32, draft: &Distribution, full: &Distribution) -> f64 {
        let accepted = |token| draft.probability(token).min(full.probability(token));
        let rejected: f64 = draft.iter().map(|(token, q)| q - accepted(token)).sum();
        accepted(token) + rejected * full.residual(draft).probability(token)
    }

    proptest! {
        #[test]
        fn the_rule_yields_the_full_distribution(draft in distributions(), full in distributions()) {
            for token in 0..12 {
                let error = comes_out(token, &draft, &full) - full.probability(token);
                prop_assert!(error.abs() < 1e-12, "token {}: {}", token, error);
            }
        }

        #[test]
        fn an_equal_draft_always_stands(full in distributions(), seed: u64) {
            let mut rng = Random::new(seed);
            for _ in 0..20 {
                let drafted = full.sample(&mut rng);
                prop_assert_eq!(verify_draft(drafted, &full, &full, &mut rng), Verification::Accepted);
            }
        }

        #[test]
        fn replacements_are_tokens_the_draft_undervalues(
            draft in distributions(),
            full in distributions(),
            seed: u64,
        ) {
            let mut rng = Random::new(seed);
            let drafted = draft.sample(&mut rng);
            if let Verification::Replaced(token) = verify_draft(drafted, &draft, &full, &mut rng) {
                prop_assert!(full.probability(drafted) < draft.probability(drafted));
                prop_assert!(full.probability(token) > draft.probability(token));
            }
        }
    }
}
