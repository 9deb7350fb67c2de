//! Models in bf16 and f16 on every device that supports them, compared with f32 on the CPU.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)] // tests fail by panicking

use std::path::PathBuf;

use soft_core::Prompt;
use soft_core::decode::DraftLength;
use soft_core::decode::Speculation;
use soft_core::{DecodeModel, DecodeSettings, Decoder, Exit, Mode, NestedModel};

use crate::device::{device, list_devices};
use crate::dtype::DType;
use crate::error::Error;
use crate::model::llama::Llama;
use crate::model::placement::Placement;
use crate::tests::fixture;

fn small() -> PathBuf {
    fixture("tied_gqa_llama3")
}

/// The model on every device in every type. A device must refuse a type it does not support.
fn loaded() -> Vec<(String, DType, Llama)> {
    let mut models = Vec::new();
    for name in list_devices() {
        let device = device(&name).unwrap();
        for dtype in DType::ALL {
            let place = Placement::from((&device, dtype));
            let model = Llama::from_pretrained(small(), place.clone());
            match (model, place.check()) {
                (Ok(model), Ok(())) => models.push((name.clone(), dtype, model)),
                (Err(Error::NumberType { expected, .. }), Err(_)) => {
                    println!("{name} does not compute in {dtype}");
                    assert!(expected.contains(&DType::F32) && !expected.contains(&dtype));
                }
                (found, _) => panic!("{name}, {dtype}: {:?}", found.err()),
            }
        }
    }
    models
}

fn rows(model: &Llama) -> Vec<Vec<u32>> {
    let vocab = model.vocab() as u32;
    let row = |row: u32| (0..7).map(|i| (i * 5 + 3 * row + 1) % vocab).collect();
    (0..3).map(row).collect()
}

fn logits(model: &Llama, depth: usize) -> Vec<f32> {
    let tokens = model.tokens(&rows(model)).unwrap();
    let logits = model.sub_model(&tokens, Exit::new(depth).unwrap()).unwrap();
    logits.try_into_vec_as().unwrap()
}

#[test]
fn logits_are_those_of_f32_to_rounding() {
    let whole = Llama::from_pretrained(small(), &device("cpu").unwrap()).unwrap();
    for (name, dtype, model) in loaded() {
        assert_eq!(model.dtype(), dtype);
        let (least, most) = match dtype {
            DType::F32 => (0.0, 1e-5),
            DType::Bf16 => (1e-4, 0.05),
            DType::F16 => (1e-5, 0.006),
        };
        for depth in 1..=whole.depth() {
            let wanted = logits(&whole, depth);
            let found = logits(&model, depth);
            let squares =
                |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>();
            let apart = squares(&mut wanted.iter().zip(&found).map(|(a, b)| a - b));
            let relative = (apart / squares(&mut wanted.iter().copied())).sqrt();
            // A smaller difference would mean that the type was not used.
            assert!(
                (least..most).contains(&relative),
                "{name}, {dtype}, exit {depth}: {relative}"
            );
        }
    }
}

#[test]
fn they_decode_in_every_mode() {
    for (name, dtype, model) in loaded() {
        let depth = model.depth();
        let draft = Exit::new(1).unwrap();
        let speculation = Speculation::at(draft, depth, DraftLength::Fixed(3)).unwrap();
        for mode in [
            Mode::Static(Exit::new(depth).unwrap()),
            Mode::Speculative(speculation),
        ] {
            let prompts: Vec<_> = rows(&model).into_iter().map(Prompt::from).collect();
            let decoder = Decoder::new(&model, &prompts, DecodeSettings::greedy(mode, 12)).unwrap();
            let answers = decoder.answers();
            let answers = answers.unwrap_or_else(|error| panic!("{name}, {dtype}: {error}"));
            assert!(answers.iter().all(|answer| answer.len() == 12));
        }
    }
}
