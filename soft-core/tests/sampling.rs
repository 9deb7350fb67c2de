//! The distributions of `Sampling` compared with transformers, by hand, and with the definitions.
//!
//! `fixtures/sampling.json` is written by `fixtures/make_sampling.py`, which runs the logits
//! processors of transformers.

#![allow(clippy::unwrap_used)] // tests fail by panicking

use proptest::prelude::*;
use serde::Deserialize;
use soft_core::Sampling;
use soft_core::sampling::Distribution;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    sampling: Sampling,
    /// `null` is -inf, which JSON cannot represent.
    logits: Vec<Option<f32>>,
    seen: Vec<u32>,
    probabilities: Vec<(u32, f64)>,
}

#[test]
fn distributions_are_those_of_transformers() {
    let golden: Golden = serde_json::from_str(include_str!("fixtures/sampling.json")).unwrap();
    assert!(golden.cases.len() >= 100);
    for case in golden.cases {
        let logit = |logit: &Option<f32>| logit.unwrap_or(f32::NEG_INFINITY);
        let logits: Vec<f32> = case.logits.iter().map(logit).collect();
        let made = case.sampling.distribution(&logits, &case.seen).unwrap();
        // The tokens must match too: none that is barely possible may be lost or added.
        let tokens = |(token, _): &(u32, f64)| *token;
        let expected: Vec<u32> = case.probabilities.iter().map(tokens).collect();
        let found: Vec<u32> = made.iter().map(|pair| tokens(&pair)).collect();
        assert_eq!(found, expected, "{:?}", case.sampling);
        for (token, expected) in case.probabilities {
            let error = made.probability(token) - expected;
            let sampling = &case.sampling;
            assert!(error.abs() < 1e-6, "token {token} of {sampling:?}: {error}");
        }
    }
}

/// Plain sampling, from which tests change single settings.
fn plain() -> Sampling {
    Sampling {
        temperature: 1.0,
        ..Sampling::greedy()
    }
}

fn tokens(sampling: &Sampling, logits: &[f32]) -> Vec<u32> {
    let made = sampling.distribution(logits, &[]).unwrap();
    made.iter().map(|(token, _)| token).collect()
}

#[test]
fn the_ends_of_the_ranges_belong_to_them() {
    let all = Sampling {
        top_k: Some(usize::MAX),
        top_p: Some(1.0),
        min_p: Some(0.0),
        ..plain()
    };
    let logits = [1.0, -30.0, 2.0];
    assert_eq!(
        all.distribution(&logits, &[]),
        plain().distribution(&logits, &[])
    );
}

#[test]
fn of_equal_scores_greedy_and_top_p_take_the_lowest_ids_and_top_k_all() {
    let logits = [0.0, 2.0, 2.0, 2.0, 2.0];
    let top_p = |top_p| Sampling {
        top_p: Some(top_p),
        ..plain()
    };
    let top_k = Sampling {
        top_k: Some(2),
        ..plain()
    };
    assert_eq!(tokens(&Sampling::greedy(), &logits), [1]);
    assert_eq!(tokens(&top_p(1e-300), &logits), [1]);
    assert_eq!(tokens(&top_p(0.4), &logits), [1, 2]);
    assert_eq!(tokens(&top_k, &logits), [1, 2, 3, 4]);
}

#[test]
fn a_repeated_token_is_penalised_once_and_unknown_ids_do_not_matter() {
    let sampling = Sampling {
        repetition_penalty: 2.0,
        ..Sampling::greedy()
    };
    let best = |seen: &[u32]| {
        sampling
            .distribution(&[4.0, 3.0, 1.5], seen)
            .unwrap()
            .best()
    };
    assert_eq!(best(&[]), 0);
    assert_eq!(best(&[0, 9, u32::MAX]), 1);
    assert_eq!(best(&[0, 1, 0, 0]), 0);
    assert!(sampling.is_greedy() && !sampling.needs_only_the_best());
}

#[test]
fn temperatures_near_zero_and_beyond_reason_overflow_nothing() {
    let at = |temperature| Sampling {
        temperature,
        ..plain()
    };
    assert_eq!(tokens(&at(5e-324), &[f32::MIN, f32::MAX, 0.0]), [1]);
    let flat = at(1e300).distribution(&[f32::MIN, f32::MAX], &[]).unwrap();
    assert_eq!(flat.iter().collect::<Vec<_>>(), [(0, 0.5), (1, 0.5)]);
}

fn settings() -> impl Strategy<Value = Sampling> {
    let parts = (
        0.05..5.0,
        proptest::option::of(1_usize..50),
        proptest::option::of(0.001..1.0),
        proptest::option::of(0.0..1.0),
        prop_oneof![Just(1.0), 0.5..3.0],
    );
    parts.prop_map(
        |(temperature, top_k, top_p, min_p, repetition_penalty)| Sampling {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
        },
    )
}

/// Logits with ties and impossible tokens; at least one is possible.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    let logit = prop_oneof![
        6 => -8.0_f32..8.0,
        2 => (-3_i8..4).prop_map(f32::from),
        1 => Just(f32::NEG_INFINITY),
    ];
    proptest::collection::vec(logit, 1..600).prop_filter("none possible", |logits| {
        logits.iter().any(|x| x.is_finite())
    })
}

/// Applies the definitions in the order of transformers, each with a full sort and a new softmax;
/// returns the probability of every token.
fn by_definition(sampling: &Sampling, logits: &[f32], seen: &[u32]) -> Vec<f64> {
    let mut scores: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();
    for (token, score) in scores.iter_mut().enumerate() {
        if seen.contains(&(token as u32)) {
            let penalty = sampling.repetition_penalty;
            *score *= if *score < 0.0 { penalty } else { 1.0 / penalty };
        }
        *score /= sampling.temperature;
    }
    if let Some(top_k) = sampling.top_k {
        let mut sorted = scores.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let lowest = sorted[top_k.min(sorted.len()) - 1];
        keep(&mut scores, |_, score| score >= lowest);
    }
    if let Some(top_p) = sampling.top_p {
        let probabilities = softmax(&scores);
        let above = |token: usize, score: f64| -> f64 {
            let better = |other: usize| (scores[other], token) > (score, other);
            let tokens = (0..scores.len()).filter(|&other| other != token && better(other));
            tokens.map(|other| probabilities[other]).sum()
        };
        let above: Vec<f64> = (0..).zip(&scores).map(|(t, &s)| above(t, s)).collect();
        keep(&mut scores, |token, _| above[token] < top_p);
    }
    if let Some(min_p) = sampling.min_p {
        let probabilities = softmax(&scores);
        let best = probabilities.iter().copied().fold(0.0, f64::max);
        keep(&mut scores, |token, _| probabilities[token] >= min_p * best);
    }
    softmax(&scores)
}

fn keep(scores: &mut [f64], condition: impl Fn(usize, f64) -> bool) {
    for (token, score) in scores.iter_mut().enumerate() {
        if !condition(token, *score) {
            *score = f64::NEG_INFINITY;
        }
    }
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - highest).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

fn total(made: &Distribution) -> f64 {
    made.iter().map(|(_, probability)| probability).sum()
}

proptest! {
    #[test]
    fn distributions_are_distributions(
        sampling in settings(),
        logits in logits(),
        seen in proptest::collection::vec(0_u32..700, 0..20),
    ) {
        let made = sampling.distribution(&logits, &seen).unwrap();
        prop_assert!((total(&made) - 1.0).abs() < 1e-12);
        prop_assert!(made.iter().is_sorted_by(|a, b| a.0 < b.0));
        for (token, probability) in made.iter() {
            prop_assert!(probability > 0.0 && logits[token as usize].is_finite());
        }
    }

    #[test]
    fn shortcuts_do_not_show(
        sampling in settings(),
        logits in logits(),
        seen in proptest::collection::vec(0_u32..700, 0..20),
    ) {
        let made = sampling.distribution(&logits, &seen).unwrap();
        for (token, expected) in (0..).zip(by_definition(&sampling, &logits, &seen)) {
            prop_assert!((made.probability(token) - expected).abs() < 1e-9, "token {}", token);
        }
    }

    #[test]
    fn the_best_of_one_is_greedy(
        sampling in settings(),
        order in Just((0_i16..40).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        // Scores without ties, which top-k would keep.
        let logits: Vec<f32> = order.into_iter().map(|rank| f32::from(rank) / 8.0 - 2.0).collect();
        let top_1 = Sampling { top_k: Some(1), repetition_penalty: 1.0, ..sampling };
        let greedy = Sampling::greedy().distribution(&logits, &[]).unwrap();
        prop_assert_eq!(top_1.distribution(&logits, &[]).unwrap(), greedy);
    }
}
