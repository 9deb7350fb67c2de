//! Every device except the default, primarily accelerators: the laws, and logits, training steps
//! and greedy answers compared with the CPU. Without a device the tests print a note and pass;
//! `cargo test -p soft-burn --features wgpu accelerators -- --nocapture` shows the devices used.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests fail by panicking
#![allow(clippy::print_stdout)]

use burn::tensor::Device;
use soft_core::conformance::{DecodingLaws, Equality, Laws};
use soft_core::decode::{DraftLength, Speculation};
use soft_core::{
    Batch, BatchStream, DecodeModel, DecodeSettings, Decoder, Example, Exit, Exits, Mode,
    NestedModel, Prompt, StreamPosition,
};

use crate::device::{device, list_devices};
use crate::model::llama::Llama;
use crate::model::parameters::named_tensors;
use crate::tests::fixture;
use crate::train::method::Method;
use crate::train::settings::TrainSettings;
use crate::train::trainer::Trainer;

fn accelerators() -> Vec<(String, Device)> {
    let names = list_devices().into_iter();
    let names = names.filter(|name| name != "cpu");
    let found: Vec<_> = names
        .map(|name| (name.clone(), device(&name).unwrap()))
        .collect();
    if found.is_empty() {
        println!("NOT RUN: no accelerator found on this machine")
    } else {
        found
            .iter()
            .for_each(|(name, _)| println!("running on {name}"))
    }
    found
}

/// A small LLaMA by transformers with grouped queries, a tied head and llama3 rope scaling.
fn small(device: &Device) -> Llama {
    Llama::from_pretrained(fixture("tied_gqa_llama3"), device).unwrap()
}

fn rows(model: &Llama) -> Vec<Vec<u32>> {
    let vocab = model.vocab() as u32;
    let row = |row: u32| (0..7).map(|i| (i * 5 + 3 * row + 1) % vocab).collect();
    (0..3).map(row).collect()
}

#[test]
fn laws() {
    for (name, device) in accelerators() {
        let model = small(&device);
        let exits = Exits::every(1, 1..=model.depth()).unwrap();
        let laws = Laws {
            model: &model,
            rows: rows(&model),
            exits,
            tolerance: 1e-3,
        };
        laws.check()
            .unwrap_or_else(|broken| panic!("{name}: {broken}"));
        // Few and short prompts: software drivers take minutes for what the CPU does in a second.
        let prompts = rows(&model).into_iter().take(2).map(Prompt::from).collect();
        let laws = DecodingLaws {
            tolerance: 1e-3,
            equality: Equality::WithinRounding,
            max_new_tokens: 5,
            lengths: vec![DraftLength::Fixed(2)],
            ..DecodingLaws::new(&model, prompts, Exits::new([1, model.depth()]).unwrap())
        };
        laws.check()
            .unwrap_or_else(|broken| panic!("{name}: {broken}"));
    }
}

#[test]
fn logits_are_those_of_the_cpu() {
    let cpu = small(&device("cpu").unwrap());
    for (name, device) in accelerators() {
        let model = small(&device);
        for depth in 1..=cpu.depth() {
            let exit = Exit::new(depth).unwrap();
            let logits = |model: &Llama| -> Vec<f32> {
                let tokens = model.tokens(&rows(model)).unwrap();
                let logits = model.sub_model(&tokens, exit).unwrap();
                logits.try_into_vec_as().unwrap()
            };
            let pairs = logits(&cpu).into_iter().zip(logits(&model));
            let largest = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(largest < 1e-3, "{name}, exit {depth}: {largest}");
        }
    }
}

#[test]
fn logits_are_those_of_transformers() {
    for (_, device) in accelerators() {
        crate::tests::golden::check_logits(&device, 1e-3);
    }
}

#[test]
fn greedy_answers_are_those_of_the_cpu() {
    let answers = |model: &Llama, mode: fn(usize) -> Mode| {
        let prompts: Vec<_> = rows(model).into_iter().map(Prompt::from).collect();
        let settings = DecodeSettings::greedy(mode(model.depth()), 12);
        Decoder::new(model, &prompts, settings)
            .unwrap()
            .answers()
            .unwrap()
    };
    let full = |depth: usize| Mode::Static(Exit::new(depth).unwrap());
    let speculative = |depth: usize| {
        let draft = Exit::new(1).unwrap();
        Mode::Speculative(Speculation::at(draft, depth, DraftLength::Fixed(3)).unwrap())
    };
    let wanted = answers(&small(&device("cpu").unwrap()), full);
    for (name, device) in accelerators() {
        let model = small(&device);
        assert_eq!(answers(&model, full), wanted, "{name}");
        assert_eq!(answers(&model, speculative), wanted, "{name}");
    }
}

struct Same(Batch);

impl BatchStream for Same {
    type Error = std::convert::Infallible;

    fn next_batch(&mut self) -> Result<Batch, Self::Error> {
        Ok(self.0.clone())
    }

    fn position(&self) -> StreamPosition {
        StreamPosition::default()
    }

    fn seek(&mut self, _position: StreamPosition) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// Losses of three steps at every exit, and the weights afterwards.
fn trained(device: &Device) -> (Vec<f64>, Vec<f32>) {
    let model = small(device);
    let examples: Vec<_> = rows(&model).into_iter().map(Example::text).collect();
    let batch = Batch::from_examples(&examples.iter().collect::<Vec<_>>()).unwrap();
    let exits = Exits::every(1, 1..=model.depth()).unwrap();
    let mut trainer = Trainer::new(model, TrainSettings::new(Method::soft(), exits, 3)).unwrap();
    let mut losses = Vec::new();
    for _ in 0..3 {
        let report = trainer.step(&mut Same(batch.clone())).unwrap();
        losses.extend(report.exits.iter().map(|exit| exit.loss));
    }
    let weights = named_tensors(&trainer.trained()).unwrap();
    let weights = weights.into_iter().flat_map(|tensor| tensor.values);
    (losses, weights.collect())
}

#[test]
fn training_steps_are_those_of_the_cpu() {
    let (wanted, wanted_weights) = trained(&device("cpu").unwrap());
    for (name, device) in accelerators() {
        let (losses, weights) = trained(&device);
        for (loss, wanted) in losses.iter().zip(&wanted) {
            assert!(
                (loss / wanted - 1.0).abs() < 1e-4,
                "{name}: {loss}, {wanted} on the CPU"
            );
        }
        let pairs = weights.iter().zip(&wanted_weights);
        let largest = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(largest < 1e-4, "{name}: weights {largest} apart");
    }
}
