//! Sampled self-speculation has the distribution of plain sampling: chi-square tests of the first
//! tokens of many answers against the exact distribution, enumerated on a toy model.

#![allow(clippy::unwrap_used)] // tests fail by panicking

mod chi_square;

use chi_square::deviation;
use soft_core::decode::{DraftLength, DynamicExits, Speculation, Statistics, Tuner};
use soft_core::policy::{Always, Confidence, Patience, Saturation};
use soft_core::toy::ToyModel;
use soft_core::{
    DecodeSettings, Decoder, Exit, Exits, Mode, NestedModel, Prompt, Sampling, Thresholds,
};

const VOCAB: usize = 6;
const DEPTH: usize = 4;
/// Number of tokens of an answer that are compared.
const LOOK: usize = 3;
const ANSWERS: u64 = 20_000;

fn model() -> ToyModel {
    ToyModel::new(DEPTH, 4, VOCAB, 6).restless()
}

const PROMPT: [u32; 3] = [1, 4, 2];

/// The index of an answer among all outcomes; a missing token has the digit `VOCAB`.
fn outcome(answer: &[u32]) -> usize {
    let digit = |index| answer.get(index).map_or(VOCAB, |&token| token as usize);
    (0..LOOK).fold(0, |number, index| number * (VOCAB + 1) + digit(index))
}

/// The probability of every outcome, by running the full model on every text.
fn exact(sampling: &Sampling, stop_tokens: &[u32]) -> Vec<f64> {
    let mut outcomes = vec![0.0; (VOCAB + 1).pow(LOOK as u32)];
    let mut texts = vec![(PROMPT.to_vec(), 1.0)];
    while let Some((text, probability)) = texts.pop() {
        let answer = &text[PROMPT.len()..];
        if answer.len() == LOOK {
            outcomes[outcome(answer)] += probability;
            continue;
        }
        let full = Exit::new(DEPTH).unwrap();
        let logits = model().sub_model(&vec![text.clone()], full).unwrap();
        let last: Vec<f32> = logits[0]
            .last()
            .unwrap()
            .iter()
            .map(|&l| l as f32)
            .collect();
        for (token, chance) in sampling.distribution(&last, &text).unwrap().iter() {
            if stop_tokens.contains(&token) {
                outcomes[outcome(answer)] += probability * chance;
            } else {
                texts.push(([&text[..], &[token]].concat(), probability * chance));
            }
        }
    }
    outcomes
}

struct Case {
    name: &'static str,
    mode: fn() -> Mode,
    sampling: Sampling,
    stop_tokens: Vec<u32>,
    draft_tokens: Option<Vec<u32>>,
    /// Rows of a batch; the second has another prompt.
    rows: usize,
}

/// Counts of outcomes. Answers are longer than the compared part, so that drafts go beyond it.
fn counts(case: &Case) -> (Vec<u32>, Statistics) {
    let model = model();
    let mut counts = vec![0; (VOCAB + 1).pow(LOOK as u32)];
    let mut statistics = Statistics::default();
    let (mut seed, mut drawn) = (0, 0);
    // Automatic mode measures first; it drafts when it continues with its measurements.
    let mut tuner: Option<Tuner> = None;
    while drawn < ANSWERS {
        let prompt = |row: usize| Prompt {
            tokens: if row != 1 {
                PROMPT.to_vec()
            } else {
                vec![3, 0, 5, 5, 1]
            },
            seed: seed + row as u64,
        };
        let prompts: Vec<_> = (0..case.rows).map(prompt).collect();
        let settings = DecodeSettings {
            mode: tuner.take().map_or_else(case.mode, Mode::Auto),
            sampling: case.sampling.clone(),
            max_new_tokens: LOOK + 2,
            stop_tokens: case.stop_tokens.clone(),
            draft_tokens: case.draft_tokens.clone(),
            probes: None,
            logprobs: None,
        };
        let mut decoder = Decoder::new(&model, &prompts, settings).unwrap();
        decoder.run().unwrap();
        for row in (0..case.rows).filter(|&row| row != 1) {
            counts[outcome(decoder.answer(row))] += 1;
            drawn += 1;
        }
        statistics.add(decoder.statistics());
        seed += case.rows as u64;
        tuner = decoder.into_tuner();
    }
    let drafts = matches!((case.mode)(), Mode::Speculative(_) | Mode::Auto(_));
    assert_eq!(statistics.drafted > 0, drafts, "{}", case.name);
    (counts, statistics)
}

fn draft(exit: usize, length: DraftLength) -> Mode {
    Mode::Speculative(Speculation::at(Exit::new(exit).unwrap(), DEPTH, length).unwrap())
}

fn policy_drafts(policy: Box<dyn soft_core::ExitPolicy>, length: DraftLength) -> Mode {
    Mode::Speculative(Speculation {
        exits: exits(),
        policy,
        length,
    })
}

fn exits() -> Exits {
    Exits::new([1, 2, DEPTH]).unwrap()
}

fn plain() -> Sampling {
    Sampling {
        temperature: 1.0,
        ..Sampling::greedy()
    }
}

fn case(name: &'static str, mode: fn() -> Mode, sampling: Sampling) -> Case {
    Case {
        name,
        mode,
        sampling,
        stop_tokens: vec![],
        draft_tokens: None,
        rows: 5,
    }
}

fn fixed4() -> Mode {
    draft(2, DraftLength::Fixed(4))
}

fn one_exit() -> Vec<Case> {
    vec![
        case(
            "without drafts",
            || Mode::Static(Exit::new(DEPTH).unwrap()),
            plain(),
        ),
        case("one token", || draft(1, DraftLength::Fixed(1)), plain()),
        Case {
            rows: 1,
            ..case("four tokens, alone", fixed4, plain())
        },
        case(
            "cold",
            fixed4,
            Sampling {
                temperature: 0.6,
                ..plain()
            },
        ),
        case(
            "hot",
            fixed4,
            Sampling {
                temperature: 1.7,
                ..plain()
            },
        ),
        case(
            "top-k",
            fixed4,
            Sampling {
                top_k: Some(3),
                ..plain()
            },
        ),
        case(
            "top-p, adaptive",
            || draft(1, DraftLength::Adaptive { start: 2, most: 5 }),
            Sampling {
                top_p: Some(0.8),
                ..plain()
            },
        ),
        case(
            "min-p, confident",
            || {
                draft(
                    2,
                    DraftLength::Confident {
                        least: 0.4,
                        most: 5,
                    },
                )
            },
            Sampling {
                min_p: Some(0.1),
                ..plain()
            },
        ),
        case(
            "repetition penalty",
            fixed4,
            Sampling {
                repetition_penalty: 1.5,
                ..plain()
            },
        ),
    ]
}

fn policies_and_heads() -> Vec<Case> {
    vec![
        Case {
            draft_tokens: Some(vec![0, 2, 3]),
            ..case("cut-down head", fixed4, plain())
        },
        Case {
            draft_tokens: Some(vec![5]),
            ..case(
                "a head of one token",
                fixed4,
                Sampling {
                    top_p: Some(0.9),
                    ..plain()
                },
            )
        },
        Case {
            stop_tokens: vec![2, 5],
            ..case("stop tokens", fixed4, plain())
        },
        case(
            "confidence drafts",
            || {
                policy_drafts(
                    Box::new(Confidence(Thresholds::all(0.45))),
                    DraftLength::Fixed(3),
                )
            },
            plain(),
        ),
        Case {
            stop_tokens: vec![0],
            draft_tokens: Some(vec![0, 1, 2, 4]),
            ..case(
                "saturation drafts",
                || {
                    let length = DraftLength::Confident {
                        least: 0.3,
                        most: 4,
                    };
                    policy_drafts(Box::new(Saturation(Thresholds::all(0.7))), length)
                },
                plain(),
            )
        },
        case(
            "patience drafts",
            || policy_drafts(Box::new(Patience::new(2)), DraftLength::Fixed(2)),
            plain(),
        ),
        case("automatic", || Mode::Auto(Tuner::new(exits())), plain()),
    ]
}

/// Checks every case of `cases`; returns the accepted share of the drafts.
fn draw_what_the_full_model_draws(cases: &[Case]) -> f64 {
    let mut total = Statistics::default();
    for case in cases {
        let expected = exact(&case.sampling, &case.stop_tokens);
        assert!(
            (expected.iter().sum::<f64>() - 1.0).abs() < 1e-9,
            "{}",
            case.name
        );
        let (counts, statistics) = counts(case);
        let found = deviation(&counts, &expected);
        assert!(found < 1.0, "{}: {found}", case.name);
        total.add(&statistics);
    }
    total.acceptance_rate()
}

#[test]
fn drafts_at_one_exit_draw_what_the_full_model_draws() {
    let accepted = draw_what_the_full_model_draws(&one_exit());
    assert!((0.2..0.8).contains(&accepted), "{accepted}");
}

#[test]
fn drafts_of_policies_and_cut_down_heads_draw_what_the_full_model_draws() {
    let accepted = draw_what_the_full_model_draws(&policies_and_heads());
    assert!((0.2..0.8).contains(&accepted), "{accepted}");
}

/// The test detects exits without verification, and slightly colder sampling.
#[test]
fn what_is_not_the_full_model_is_caught() {
    let unchecked = || Mode::Dynamic(DynamicExits::new(exits(), Box::new(Always)));
    let colder = Sampling {
        temperature: 0.9,
        ..plain()
    };
    let wrong = [
        (case("unchecked", unchecked, plain()), 10.0),
        (case("colder", fixed4, colder), 1.0),
    ];
    for (case, least) in wrong {
        let found = deviation(&counts(&case).0, &exact(&plain(), &[]));
        assert!(found > least, "{}: {found}", case.name);
    }
}
