//! The decoder satisfies its laws on random toy models, with sufficient coverage of the laws.

#![allow(clippy::unwrap_used)] // tests fail by panicking

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use soft_core::conformance::{Coverage, DecodingLaws};
use soft_core::decode::DynamicExits;
use soft_core::decode::{DraftLength, Speculation};
use soft_core::policy::{
    ExitDecision, ExitHead, ExitProbe, ExitProbes, ExitSignals, Probed, Signal,
};
use soft_core::toy::ToyModel;
use soft_core::{
    DecodeSettings, Decoder, Exit, ExitPolicy, Exits, Mode, Prompt, Sampling, Thresholds,
};

/// Size and seed of a random model, and exits, prompts and settings to test with it.
#[derive(Clone, Debug)]
struct World {
    model: (usize, usize, u64),
    skipped: Vec<bool>,
    /// Exits with their own block, by depth from 1 on.
    own_blocks: Vec<bool>,
    prompts: Vec<Prompt>,
    max_new_tokens: usize,
    lengths: Vec<DraftLength>,
    draft_tokens: Vec<u32>,
    sampling: Sampling,
    staying: f64,
}

fn lengths() -> impl Strategy<Value = DraftLength> {
    prop_oneof![
        (1usize..6).prop_map(DraftLength::Fixed),
        (1usize..4, 0usize..4).prop_map(|(start, more)| DraftLength::Adaptive {
            start,
            most: start + more
        }),
        (0.1..0.9, 1usize..7).prop_map(|(least, most)| DraftLength::Confident { least, most }),
    ]
}

/// No exit has its own block, or some have.
fn own_blocks(exits: usize) -> impl Strategy<Value = Vec<bool>> {
    prop_oneof![
        Just(vec![false; exits]),
        proptest::collection::vec(any::<bool>(), exits)
    ]
}

fn samplings() -> impl Strategy<Value = Sampling> {
    let top_k = proptest::option::of(1usize..6);
    let top_p = proptest::option::of(0.5..1.0);
    (0.3..1.5, top_k, top_p, 1.05..1.6).prop_map(|(temperature, top_k, top_p, penalty)| Sampling {
        temperature,
        top_k,
        top_p,
        repetition_penalty: penalty,
        ..Sampling::greedy()
    })
}

fn worlds() -> impl Strategy<Value = World> {
    (2usize..7, 5usize..17).prop_flat_map(|(depth, vocab)| {
        let tokens = proptest::collection::vec(0..vocab as u32, 1..9);
        let prompt = (tokens, any::<u64>()).prop_map(|(tokens, seed)| Prompt { tokens, seed });
        let draft_tokens = proptest::collection::vec(0..vocab as u32, 1..vocab);
        (
            any::<u64>().prop_map(move |seed| (depth, vocab, seed)),
            proptest::collection::vec(any::<bool>(), depth - 1),
            own_blocks(depth - 1),
            proptest::collection::vec(prompt, 1..5),
            4usize..17,
            proptest::collection::vec(lengths(), 1..4),
            draft_tokens,
            samplings(),
            0.2..0.8,
        )
            .prop_map(
                |(model, skipped, own, prompts, max, lengths, draft, sampling, staying)| World {
                    model,
                    skipped,
                    own_blocks: own,
                    prompts,
                    max_new_tokens: max,
                    lengths,
                    draft_tokens: draft,
                    sampling,
                    staying,
                },
            )
    })
}

fn check(world: World) -> Result<Coverage, TestCaseError> {
    let (depth, vocab, seed) = world.model;
    let own = (1..depth).filter(|exit| world.own_blocks[exit - 1]);
    let own = own.map(|depth| Exit::new(depth).unwrap());
    let model = ToyModel::new(depth, 5, vocab, seed).restless();
    let model = model.with_exit_blocks(own);
    let early = (1..depth).filter(|exit| !world.skipped[exit - 1]);
    let exits = Exits::new(early.chain([depth])).unwrap();
    let laws = DecodingLaws {
        max_new_tokens: world.max_new_tokens,
        lengths: world.lengths,
        draft_tokens: world.draft_tokens,
        sampling: world.sampling,
        staying: world.staying,
        ..DecodingLaws::new(&model, world.prompts, exits)
    };
    laws.check()
        .map_err(|error| TestCaseError::fail(error.to_string()))
}

#[test]
fn the_decoder_obeys_its_laws_on_random_models() {
    let covered = RefCell::new(Coverage::default());
    let usual = Config::default();
    let config = Config {
        // `PROPTEST_CASES=10000` tries more cases.
        cases: usual.cases / 2,
        failure_persistence: None,
        ..usual
    };
    TestRunner::new(config)
        .run(&worlds(), |world| {
            let coverage = check(world)?;
            covered.borrow_mut().add(&coverage);
            Ok(())
        })
        .unwrap();
    let covered = covered.into_inner();
    assert!(covered.sequences >= 10_000, "{covered:?}");
    // The texts must exercise the laws.
    let acceptance = covered.accepted as f64 / covered.checked as f64;
    assert!((0.1..0.9).contains(&acceptance), "{covered:?}");
    let total: u64 = covered.dynamic_by_depth.values().sum();
    let used = |tokens: &&u64| **tokens * 50 > total;
    assert!(
        covered.dynamic_by_depth.values().filter(used).count() >= 4,
        "{covered:?}"
    );
    assert!(covered.two_in_a_row >= 1_000, "{covered:?}");
    assert!(covered.stopped_by_token >= 1_000, "{covered:?}");
    assert!(covered.filled_the_context >= 500, "{covered:?}");
}

/// Drafted tokens, verified tokens and answers with this draft length.
fn speculated(length: DraftLength) -> (u64, u64, Vec<Vec<u32>>) {
    let model = ToyModel::new(4, 5, 11, 8).restless();
    let prompts: Vec<Prompt> = [vec![1, 2, 3], vec![7]].map(Prompt::from).into();
    let speculation = Speculation::at(Exit::new(2).unwrap(), 4, length).unwrap();
    let settings = DecodeSettings::greedy(Mode::Speculative(speculation), 24);
    let mut decoder = Decoder::new(&model, &prompts, settings).unwrap();
    decoder.run().unwrap();
    let answers = (0..2).map(|row| decoder.answer(row).to_vec()).collect();
    let statistics = decoder.statistics();
    (statistics.drafted, statistics.checked, answers)
}

#[test]
fn confident_drafts_hold_what_is_likely_and_nothing_else() {
    let confident = |least| speculated(DraftLength::Confident { least, most: 3 });
    let (all, some, none) = (confident(0.0), confident(0.4), confident(1.0));
    // The toy model is never certain, so nothing is drafted at 1; nothing is below 0.
    assert_eq!(none.0, 0);
    assert_eq!(all, speculated(DraftLength::Fixed(3)));
    assert!(0 < some.0 && some.0 < all.0, "{} of {}", some.0, all.0);
    assert!(some.2 == all.2 && none.2 == all.2);
}

/// The exit before the last block has a copy of it, so that its drafts are those of the full model:
/// only tokens outside the draft head are rejected.
#[test]
fn drafts_of_an_exit_with_its_own_block_are_exact() {
    let (mut accepted, mut rejected) = (0, 0);
    for seed in 0..40 {
        let at = Exit::new(3).unwrap();
        let model = ToyModel::new(4, 5, 11, seed).restless();
        let model = model.with_exit_blocks([at]);
        let prompts: Vec<Prompt> = [vec![1, 2, 3], vec![7], vec![4, 4]]
            .map(Prompt::from)
            .into();
        let draft_tokens: Vec<u32> = (0..11).filter(|token| token % 4 != 3).collect();
        let length = DraftLength::Fixed(1 + seed as usize % 5);
        let speculation = Speculation::at(at, 4, length).unwrap();
        let mut settings = DecodeSettings::greedy(Mode::Speculative(speculation), 24);
        settings.draft_tokens = Some(draft_tokens.clone());
        let mut decoder = Decoder::new(&model, &prompts, settings).unwrap();
        decoder.run().unwrap();
        let answers = (0..3).flat_map(|row| decoder.answer(row));
        let outside = answers
            .filter(|token| !draft_tokens.contains(token))
            .count() as u64;
        let statistics = decoder.statistics();
        let wrong = statistics.checked - statistics.accepted;
        assert!(
            wrong <= outside,
            "seed {seed}: {wrong} rejected, {outside} outside the head"
        );
        accepted += statistics.accepted;
        rejected += wrong;
    }
    assert!(
        accepted > 500 && rejected > 100,
        "{accepted} accepted, {rejected} rejected"
    );
}

/// Asks for the score whether or not it is known.
#[derive(Clone)]
struct Insatiable;

impl ExitPolicy for Insatiable {
    fn decide(&mut self, _exit: Exit, _signals: &ExitSignals) -> ExitDecision {
        ExitDecision::Ask(Signal::Score)
    }
}

/// Exits where the probe is sure.
fn probed(model: &ToyModel, probes: Option<ExitProbes>) -> Result<Vec<Vec<u32>>, String> {
    let exits = Exits::new([1, 2, 4]).unwrap();
    let policy = Box::new(Probed(Thresholds::all(0.5)));
    let mode = Mode::Dynamic(DynamicExits::new(exits, policy));
    let settings = DecodeSettings {
        probes,
        ..DecodeSettings::greedy(mode, 12)
    };
    let prompt = [Prompt::from(vec![1, 2, 3])];
    let decoder = Decoder::new(model, &prompt, settings).unwrap();
    decoder.answers().map_err(|error| error.to_string())
}

#[test]
fn probes_that_are_missing_or_of_another_model_are_refused() {
    let model = ToyModel::new(4, 5, 11, 3).restless();
    let all_of = |width: usize| {
        let probe = |depth| ExitProbe {
            exit: Exit::new(depth).unwrap(),
            bias: 9.0,
            weights: vec![0.0; width],
        };
        ExitProbes::new([1, 2].map(probe).into())
    };
    assert_eq!(probed(&model, Some(all_of(5))).unwrap()[0].len(), 12);
    let error = probed(&model, None).unwrap_err();
    assert!(error.contains("exit 1 has no probe"), "{error}");
    let error = probed(&model, Some(all_of(4))).unwrap_err();
    assert!(error.contains("has 4 weights: expected 5"), "{error}");
}

#[test]
fn a_draft_head_needs_tokens() {
    let model = ToyModel::new(4, 5, 11, 3);
    let exits = Exits::new([1, 4]).unwrap();
    let dynamic = DynamicExits {
        head: ExitHead::Draft,
        ..DynamicExits::new(exits, Box::new(Insatiable))
    };
    let settings = DecodeSettings::greedy(Mode::Dynamic(dynamic), 12);
    let refused = Decoder::new(&model, &[Prompt::from(vec![1])], settings).err();
    assert!(refused.unwrap().to_string().contains("no draft tokens"));
}

#[test]
fn a_policy_that_asks_for_what_it_knows_continues() {
    let exits = Exits::new([1, 2, 4]).unwrap();
    let model = ToyModel::new(4, 5, 11, 3).restless();
    let model = model.with_exit_blocks(exits.iter().take(1));
    let prompts: Vec<Prompt> = [vec![1, 2, 3], vec![7]].map(Prompt::from).into();
    let decode = |mode| {
        let settings = DecodeSettings::greedy(mode, 12);
        let decoder = Decoder::new(&model, &prompts, settings).unwrap();
        decoder.answers().unwrap()
    };
    let asked = decode(Mode::Dynamic(DynamicExits::new(
        exits.clone(),
        Box::new(Insatiable),
    )));
    assert_eq!(asked, decode(Mode::Static(exits.last())));
}
