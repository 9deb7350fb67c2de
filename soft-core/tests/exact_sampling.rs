//! Samples have the right distribution: chi-square tests with fixed seeds.
//!
//! Wrong rules are tested as well, to show that the tests can fail.

#![allow(clippy::unwrap_used)] // tests fail by panicking

mod chi_square;

use chi_square::critical;
use soft_core::Sampling;
use soft_core::random::Random;
use soft_core::sampling::{Distribution, Verification, verify_draft};

const DRAWS: u32 = 200_000;

/// Token ids are below this.
const VOCAB: u32 = 12;

/// How far `counts` are from draws of `expected`: below 1 when they may be such draws.
fn deviation(counts: &[u32], expected: &Distribution) -> f64 {
    let expected: Vec<f64> = (0..VOCAB).map(|t| expected.probability(t)).collect();
    chi_square::deviation(counts, &expected)
}

fn counts(mut draw: impl FnMut() -> u32) -> Vec<u32> {
    let mut counts = vec![0; VOCAB as usize];
    for _ in 0..DRAWS {
        counts[draw() as usize] += 1;
    }
    counts
}

type Tokens = fn(u32) -> bool;

fn distribution(rng: &mut Random, temperature: f64, possible: Tokens) -> Distribution {
    let mut logit = |token| {
        let logit = 6.0 * rng.uniform() - 3.0;
        if possible(token) {
            logit as f32
        } else {
            f32::NEG_INFINITY
        }
    };
    let logits: Vec<f32> = (0..VOCAB).map(&mut logit).collect();
    let sampling = Sampling {
        temperature,
        ..Sampling::greedy()
    };
    sampling.distribution(&logits, &[]).unwrap()
}

/// Draft and full distributions: equal, unrelated, sharp, flat, overlapping, disjoint, certain.
fn pairs() -> Vec<(&'static str, Distribution, Distribution)> {
    let mut rng = Random::new(20_230_908);
    let mut made = |temperature, possible| distribution(&mut rng, temperature, possible);
    let all: Tokens = |_| true;
    let (even, odd): (Tokens, Tokens) = (|token| token % 2 == 0, |token| token % 2 == 1);
    let same = made(1.0, all);
    vec![
        ("equal", same.clone(), same),
        ("unrelated", made(1.0, all), made(1.0, all)),
        ("sharp draft", made(0.3, all), made(1.5, all)),
        ("flat draft", made(3.0, all), made(0.5, all)),
        ("half drafted", made(1.0, |token| token < 6), made(1.0, all)),
        ("half wanted", made(1.0, all), made(1.0, |token| token < 6)),
        (
            "overlapping",
            made(1.0, |token| token < 8),
            made(1.0, |token| token > 3),
        ),
        ("disjoint", made(1.0, even), made(1.0, odd)),
        ("greedy draft", Distribution::point(4), made(1.0, all)),
        ("greedy full", made(1.0, all), Distribution::point(4)),
    ]
}

/// The token that results from drafting and verification.
fn speculated(draft: &Distribution, full: &Distribution, rng: &mut Random) -> u32 {
    let drafted = draft.sample(rng);
    match verify_draft(drafted, draft, full, rng) {
        Verification::Accepted => drafted,
        Verification::Replaced(token) => token,
    }
}

/// The approximation is too high, by less than 3 % from 4 degrees of freedom on.
#[test]
fn critical_values_are_those_of_tables() {
    for (freedom, tabulated) in [(4.0, 23.513), (10.0, 35.564), (11.0, 37.367)] {
        let error = critical(freedom) / tabulated - 1.0;
        assert!((0.0..0.03).contains(&error), "{freedom} degrees: {error}");
    }
}

#[test]
fn samples_have_their_distribution() {
    for (seed, (name, draft, full)) in (0..).zip(pairs()) {
        for expected in [draft, full] {
            let mut rng = Random::new(seed);
            let found = deviation(&counts(|| expected.sample(&mut rng)), &expected);
            assert!(found < 1.0, "{name}: {found}");
        }
    }
}

#[test]
fn drafting_and_checking_has_the_full_distribution() {
    for (seed, (name, draft, full)) in (100..).zip(pairs()) {
        let mut rng = Random::new(seed);
        let found = deviation(&counts(|| speculated(&draft, &full, &mut rng)), &full);
        assert!(found < 1.0, "{name}: {found}");
    }
}

/// The decision on one token must not depend on that on the previous one.
#[test]
fn successive_tokens_are_independent_draws() {
    let mut made = Random::new(77);
    let mut small = |possible| distribution(&mut made, 1.0, possible);
    let (draft, full) = (small(|token| token < 3), small(|token| token < 3));
    let mut rng = Random::new(5);
    let both = counts(|| {
        let first = speculated(&draft, &full, &mut rng);
        3 * first + speculated(&draft, &full, &mut rng)
    });
    // Nine products of probabilities, expressed as logits.
    let product = |pair: u32| full.probability(pair / 3) * full.probability(pair % 3);
    let logits: Vec<f32> = (0..9).map(|pair| product(pair).ln() as f32).collect();
    let plain = Sampling {
        temperature: 1.0,
        ..Sampling::greedy()
    };
    let expected = plain.distribution(&logits, &[]).unwrap();
    let found = deviation(&both, &expected);
    assert!(found < 1.0, "{found}");
}

#[test]
fn wrong_rules_are_caught() {
    type Rule = fn(&Distribution, &Distribution, &mut Random) -> u32;
    let rules: [(&str, Rule); 4] = [
        ("accept always", |draft, _, rng| draft.sample(rng)),
        ("replace from the full distribution", |draft, full, rng| {
            let drafted = draft.sample(rng);
            match verify_draft(drafted, draft, full, rng) {
                Verification::Accepted => drafted,
                Verification::Replaced(_) => full.sample(rng),
            }
        }),
        ("accept with the full probability", |draft, full, rng| {
            let drafted = draft.sample(rng);
            if rng.uniform() < full.probability(drafted) {
                return drafted;
            }
            full.residual(draft).sample(rng)
        }),
        ("accept when both agree on the best", |draft, full, rng| {
            let drafted = draft.sample(rng);
            if drafted == full.best() {
                return drafted;
            }
            full.residual(draft).sample(rng)
        }),
    ];
    for (name, rule) in rules {
        for (pair, draft, full) in pairs().iter().filter(|pair| pair.0 == "unrelated") {
            let mut rng = Random::new(9);
            let found = deviation(&counts(|| rule(draft, full, &mut rng)), full);
            assert!(found > 10.0, "{name} on {pair}: {found}");
        }
    }
}

/// The test detects that the best token is drawn again in 3 % of the cases.
#[test]
fn small_flaws_are_caught() {
    let mut rng = Random::new(3);
    let full = distribution(&mut rng, 1.0, |_| true);
    let flawed = counts(|| {
        let token = full.sample(&mut rng);
        if token == full.best() && rng.uniform() < 0.03 {
            full.sample(&mut rng)
        } else {
            token
        }
    });
    assert!(deviation(&flawed, &full) > 1.0);
}
