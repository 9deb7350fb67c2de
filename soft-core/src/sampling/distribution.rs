//! The distribution of the next token.
//!
//! Independent of logits and models. Source of the residual: Leviathan, Kalman, Matias, *Fast
//! Inference from Transformers via Speculative Decoding*, arXiv 2211.17192, section 2.3.

use crate::random::Random;

/// A probability distribution over token ids: only those that can be sampled, at least one.
///
/// ```
/// use soft_core::Sampling;
/// use soft_core::random::Random;
///
/// let sampling = Sampling { temperature: 1.0, top_k: Some(2), ..Sampling::greedy() };
/// let next = sampling.distribution(&[0.0, 3.0_f32.ln(), -1.0], &[])?;
/// assert!((next.probability(1) - 0.75).abs() < 1e-6 && next.probability(2) == 0.0);
/// assert!(next.sample(&mut Random::new(1)) < 2);
/// # Ok::<(), soft_core::sampling::SamplingError>(())
/// ```
// Token ids strictly increase, probabilities are positive and sum to 1 up to rounding.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution(Vec<(u32, f64)>);

impl Distribution {
    /// All probability on `token`, as in greedy decoding.
    pub fn point(token: u32) -> Self {
        Self(vec![(token, 1.0)])
    }

    /// Proportional to finite `weights`, in order of token ids; `None` when no weight is positive.
    pub(crate) fn in_proportion(mut weights: Vec<(u32, f64)>) -> Option<Self> {
        debug_assert!(weights.is_sorted_by(|a, b| a.0 < b.0));
        let total: f64 = weights.iter().map(|&(_, weight)| weight).sum();
        for (_, weight) in &mut weights {
            *weight /= total;
        }
        // Tokens cannot be sampled if the division gave 0, or NaN for 0 by 0.
        weights.retain(|&(_, probability)| probability > 0.0);
        (!weights.is_empty()).then_some(Self(weights))
    }

    /// The probability of `token`, 0 if it cannot be sampled.
    pub fn probability(&self, token: u32) -> f64 {
        match self.0.binary_search_by_key(&token, |&(token, _)| token) {
            Ok(index) => self.0[index].1,
            Err(_) => 0.0,
        }
    }

    /// The most likely token, the lowest id of equally likely ones.
    pub fn best(&self) -> u32 {
        let higher = |best: (u32, f64), next: (u32, f64)| if next.1 > best.1 { next } else { best };
        self.iter().fold(self.0[0], higher).0
    }

    /// The tokens that can be sampled and their probabilities, lowest id first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u32, f64)> + '_ {
        self.0.iter().copied()
    }

    /// Samples a token. Draws one number from `rng` even if there is only one token, so that a
    /// row's stream does not depend on the model's confidence.
    pub fn sample(&self, rng: &mut Random) -> u32 {
        let mut left = rng.uniform();
        for (token, probability) in self.iter() {
            if left < probability {
                return token;
            }
            left -= probability;
        }
        // The probabilities may sum to less than 1 by a rounding error.
        self.0[self.0.len() - 1].0
    }

    /// The sum of the smaller probabilities of both distributions, which is the probability that a
    /// token drafted from one is accepted by the other.
    pub fn overlap(&self, other: &Self) -> f64 {
        let mut others = other.iter().peekable();
        let smaller = self.iter().map(|(token, probability)| {
            while others.next_if(|&(other, _)| other < token).is_some() {}
            let same = others.next_if(|&(other, _)| other == token);
            same.map_or(0.0, |(_, other)| probability.min(other))
        });
        smaller.sum()
    }

    /// The distribution to sample from after a token of `draft`, q, was rejected: max(0, p - q),
    /// normalized, where p is this distribution.
    ///
    /// If p ≤ q everywhere, p = q and nothing is rejected but by rounding; then p is returned.
    #[must_use]
    pub fn residual(&self, draft: &Self) -> Self {
        let mut drafted = draft.iter().peekable();
        let excess = self.iter().filter_map(|(token, full)| {
            while drafted.next_if(|&(other, _)| other < token).is_some() {}
            let drafted = drafted.next_if(|&(other, _)| other == token);
            let excess = full - drafted.map_or(0.0, |(_, probability)| probability);
            (excess > 0.0).then_some((token, excess))
        });
        Self::in_proportion(excess.collect()).unwrap_or_else(|| self.clone())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Distributions over up to 12 tokens, some of which are impossible.
    pub(crate) fn distributions() -> impl Strategy<Value = Distribution> {
        let weight = prop_oneof![Just(0.0), Just(1.0), 0.0..1.0, 0.0..1e-9];
        proptest::collection::vec(weight, 1..12).prop_filter_map("all weights 0", |weights| {
            Distribution::in_proportion((0..).zip(weights).collect())
        })
    }

    fn total(distribution: &Distribution) -> f64 {
        distribution
            .iter()
            .map(|(_, probability)| probability)
            .sum()
    }

    #[test]
    fn a_point_is_certain() {
        let point = Distribution::point(7);
        assert_eq!((point.best(), point.probability(7)), (7, 1.0));
        assert_eq!(point.probability(6), 0.0);
        assert_eq!(point.sample(&mut Random::new(3)), 7);
    }

    #[test]
    fn tokens_without_weight_are_left_out() {
        let made = Distribution::in_proportion(vec![(1, 0.0), (4, 3.0), (9, 1.0)]).unwrap();
        assert_eq!(made.iter().collect::<Vec<_>>(), [(4, 0.75), (9, 0.25)]);
        assert_eq!(Distribution::in_proportion(vec![(1, 0.0)]), None);
        assert_eq!(Distribution::in_proportion(vec![]), None);
    }

    #[test]
    fn of_equally_likely_tokens_the_lowest_is_best() {
        let made = Distribution::in_proportion(vec![(2, 1.0), (3, 2.0), (5, 2.0)]).unwrap();
        assert_eq!(made.best(), 3);
    }

    #[test]
    fn residuals_by_hand() {
        let full = Distribution::in_proportion(vec![(0, 0.5), (1, 0.25), (2, 0.25)]).unwrap();
        let draft = Distribution::in_proportion(vec![(0, 0.25), (1, 0.75)]).unwrap();
        let residual = full.residual(&draft);
        assert_eq!(residual.iter().collect::<Vec<_>>(), [(0, 0.5), (2, 0.5)]);
        assert_eq!(full.residual(&Distribution::point(8)), full);
    }

    #[test]
    fn overlap_is_what_both_allow() {
        let of = |weights: &[(u32, f64)]| Distribution::in_proportion(weights.to_vec()).unwrap();
        let (a, b) = (
            of(&[(1, 0.5), (4, 0.5)]),
            of(&[(1, 0.25), (2, 0.5), (4, 0.25)]),
        );
        assert_eq!(a.overlap(&b), 0.5);
        assert_eq!(b.overlap(&a), 0.5);
        assert_eq!(a.overlap(&a), 1.0);
        assert_eq!(a.overlap(&Distribution::point(2)), 0.0);
    }

    proptest! {
        #[test]
        fn samples_are_possible_and_repeatable(made in distributions(), seed: u64) {
            let (mut rng, mut again) = (Random::new(seed), Random::new(seed));
            for _ in 0..20 {
                let token = made.sample(&mut rng);
                prop_assert!(made.probability(token) > 0.0);
                prop_assert_eq!(token, made.sample(&mut again));
            }
        }

        #[test]
        fn residuals_are_distributions(full in distributions(), draft in distributions()) {
            let residual = full.residual(&draft);
            prop_assert!((total(&residual) - 1.0).abs() < 1e-12);
            prop_assert!(residual.0.is_sorted_by(|a, b| a.0 < b.0));
            for (token, probability) in residual.iter() {
                prop_assert!(probability > 0.0);
                prop_assert!(full == residual || full.probability(token) > draft.probability(token));
            }
        }

        #[test]
        fn nothing_is_left_of_equal_distributions(full in distributions()) {
            prop_assert_eq!(full.residual(&full), full);
        }
    }
}
