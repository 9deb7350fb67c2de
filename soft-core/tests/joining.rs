//! Requests with different exits in one decoder, their log-probabilities, and refused requests.

#![allow(clippy::unwrap_used)] // tests fail by panicking

use soft_core::decode::{
    DraftLength, DynamicExits, Logprobs, SharedSettings, Speculation, TokenLogprobs,
};
use soft_core::policy::Saturation;
use soft_core::toy::ToyModel;
use soft_core::{DecodeSettings, Decoder, Exit, Exits, Mode, NestedModel, Prompt, Thresholds};

const VOCAB: usize = 11;

fn model(seed: u64) -> ToyModel {
    ToyModel::new(6, 5, VOCAB, seed).restless()
}

fn exits(depths: &[usize]) -> Exits {
    Exits::new(depths.iter().copied()).unwrap()
}

fn shared(rows: usize) -> SharedSettings {
    SharedSettings {
        rows,
        positions: 64,
        prompt_chunk: 2,
        exits: exits(&[1, 2, 3, 4, 6]),
        draft_tokens: None,
        probes: None,
    }
}

fn saturated(depths: &[usize]) -> DecodeSettings {
    let policy = Box::new(Saturation(Thresholds::all(0.8)));
    let dynamic = DynamicExits::new(exits(depths), policy);
    DecodeSettings::greedy(Mode::Dynamic(dynamic), 16)
}

/// Tokens and the depths of their exits.
type Answer = Vec<(u32, usize)>;

fn answers(decoder: &mut Decoder<ToyModel>, rows: usize) -> Vec<Answer> {
    let mut answers = vec![Vec::new(); rows];
    for step in decoder {
        let step = step.unwrap();
        answers[step.row].push((step.token, step.exit.depth()));
    }
    answers
}

/// Saturation compares a state with that at the exit before, of the request's own exits.
#[test]
fn requests_may_differ_in_their_exits() {
    let mut early = 0;
    for seed in 0..20 {
        let model = model(seed);
        let requests = [&[2, 6][..], &[1, 2, 3, 4, 6], &[1, 4, 6], &[3, 6]];
        let mut decoder = Decoder::with_free_rows(&model, shared(4)).unwrap();
        let prompt = |row: usize| Prompt::from(vec![1, row as u32, 3, 7][row..].to_vec());
        for (row, depths) in requests.iter().enumerate() {
            decoder.join(&prompt(row), saturated(depths)).unwrap();
        }
        let together = answers(&mut decoder, 4);
        for (row, (depths, found)) in requests.iter().zip(&together).enumerate() {
            let mut alone = Decoder::new(&model, &[prompt(row)], saturated(depths)).unwrap();
            assert_eq!(answers(&mut alone, 1)[0], *found, "seed {seed}, row {row}");
            early += found.iter().filter(|(_, depth)| *depth < 6).count();
        }
    }
    assert!(early > 200, "{early} tokens exited early");
}

/// The log-softmax of the logits of a sub-model after every token of a text.
fn expected(model: &ToyModel, text: &[u32], exit: usize) -> Vec<Vec<f64>> {
    let exit = Exit::new(exit).unwrap();
    let logits = model.sub_model(&vec![text.to_vec()], exit).unwrap();
    let log_softmax = |row: &Vec<f64>| {
        let sum: f64 = row.iter().map(|logit| logit.exp()).sum();
        row.iter().map(|logit| logit - sum.ln()).collect()
    };
    logits[0].iter().map(log_softmax).collect()
}

fn are_those_of(found: &[TokenLogprobs], text: &[u32], first: usize, expected: &[Vec<f64>]) {
    for (index, logprobs) in found.iter().enumerate() {
        let position = first + index;
        let expected = &expected[position - 1];
        assert_eq!(logprobs.token, text[position]);
        let near = |a: f32, b: f64| (f64::from(a) - b).abs() < 1e-5;
        assert!(near(logprobs.logprob, expected[logprobs.token as usize]));
        assert_eq!(logprobs.top.len(), 3);
        let mut sorted = expected.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        for (&(token, logprob), best) in logprobs.top.iter().zip(sorted) {
            assert!(near(logprob, best) && near(logprob, expected[token as usize]));
        }
    }
}

#[test]
fn logprobs_are_those_of_the_exit() {
    let model = model(3);
    let prompt = vec![1, 2, 3, 7, 4];
    for (exit, max_new_tokens) in [(2, 6), (6, 6), (6, 0), (4, 0)] {
        let mut decoder = Decoder::with_free_rows(&model, shared(2)).unwrap();
        let mode = Mode::Static(Exit::new(exit).unwrap());
        let settings = DecodeSettings {
            logprobs: Some(Logprobs {
                top: 3,
                prompt: true,
            }),
            ..DecodeSettings::greedy(mode, max_new_tokens)
        };
        let other = DecodeSettings::greedy(Mode::Static(Exit::new(3).unwrap()), 9);
        decoder.join(&Prompt::from(vec![5]), other).unwrap();
        let row = decoder
            .join(&Prompt::from(prompt.clone()), settings)
            .unwrap();
        decoder.run().unwrap();
        let text = [&prompt[..], decoder.answer(row)].concat();
        assert_eq!(text.len(), prompt.len() + max_new_tokens);
        let expected = expected(&model, &text, exit);
        assert_eq!(decoder.prompt_logprobs(row).len(), prompt.len() - 1);
        assert_eq!(decoder.logprobs(row).len(), max_new_tokens);
        assert_eq!(decoder.stop_logprobs(row), None);
        are_those_of(decoder.prompt_logprobs(row), &text, 1, &expected);
        are_those_of(decoder.logprobs(row), &text, prompt.len(), &expected);
    }
}

#[test]
fn what_does_not_fit_the_decoder_is_refused() {
    let model = model(1);
    let mut decoder = Decoder::with_free_rows(&model, shared(1)).unwrap();
    let prompt = Prompt::from(vec![1, 2]);
    let mut refusal = |prompt: &Prompt, settings| {
        let refused = decoder.join(prompt, settings).err();
        refused.map(|error| error.to_string()).unwrap_or_default()
    };
    let full = || DecodeSettings::greedy(Mode::Static(Exit::new(6).unwrap()), 4);
    assert_eq!(
        refusal(&prompt, saturated(&[5, 6])),
        "exits 5,6: the decoder has 1,2,3,4,6"
    );
    let long = Prompt::from(vec![1; 65]);
    assert!(refusal(&long, full()).contains("65 tokens"));
    assert_eq!(refusal(&prompt, full()), "");
    assert_eq!(refusal(&prompt, full()), "all 1 rows are taken");
    decoder.leave(0);
    assert_eq!(decoder.free_rows(), 1);
    assert_eq!(decoder.join(&prompt, full()).unwrap(), 0);
}

/// Beside a row that runs all blocks in every round, drafts cost a round and gain nothing; beside one
/// that does not, they do.
#[test]
fn greedy_drafts_are_left_out_where_the_deep_blocks_run_anyway() {
    let model = model(5);
    let drafted_beside = |exit: usize| {
        let mut decoder = Decoder::with_free_rows(&model, shared(2)).unwrap();
        let draft = Exit::new(2).unwrap();
        let speculation = Speculation::at(draft, 6, DraftLength::Fixed(3)).unwrap();
        let drafting = DecodeSettings::greedy(Mode::Speculative(speculation), 16);
        let other = DecodeSettings::greedy(Mode::Static(Exit::new(exit).unwrap()), 16);
        decoder.join(&Prompt::from(vec![1, 2]), drafting).unwrap();
        decoder.join(&Prompt::from(vec![3, 4]), other).unwrap();
        decoder.run().unwrap();
        decoder.statistics().drafted
    };
    assert_eq!(drafted_beside(6), 0);
    assert!(drafted_beside(2) > 0 && drafted_beside(4) > 0);
}

/// The cache of a decoder made for prompts holds them and their answers.
#[test]
fn a_request_longer_than_the_cache_is_refused() {
    let model = model(1);
    let settings = || DecodeSettings::greedy(Mode::Static(Exit::new(6).unwrap()), 4);
    let mut decoder = Decoder::new(&model, &[Prompt::from(vec![1, 2])], settings()).unwrap();
    assert!(!answers(&mut decoder, 1)[0].is_empty());
    decoder.leave(0);
    let long = Prompt::from(vec![1; 10]);
    assert!(decoder.join(&long, settings()).is_err());
    assert_eq!(
        decoder.join(&Prompt::from(vec![3, 4]), settings()).unwrap(),
        0
    );
    assert!(!answers(&mut decoder, 1)[0].is_empty());
}
