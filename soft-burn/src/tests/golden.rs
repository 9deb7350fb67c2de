//! Golden tests: logits, losses, gradients and AdamW steps against PyTorch and transformers.
//!
//! The expected values and the script that created them are in `tests/fixtures`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests fail by panicking

use std::collections::BTreeMap;

use burn::module::Module;
use soft_core::loss::{AllExits, LastExit};
use soft_core::{
    Batch, BatchModel, DecodeSettings, Decoder, Example, Exit, Exits, LossSchedule, MicroBatch,
    Mode, NestedModel, Prompt,
};

use crate::dtype::DType;
use crate::io::pretrained::SaveOptions;
use crate::model::llama::Llama;
use crate::model::parameters::named_tensors;
use crate::ops::transfers::{Numbers, read_all};
use crate::tests::expected::{Expected, largest_difference, relative_difference, values};
use crate::tests::{fixture, test_device};
use crate::train::exit_sums::read_sums;
use crate::train::gradients::{GradientNorms, NamedGradients};
use crate::train::objective::LossTerms;
use crate::train::optimizer::{AdamWSettings, NamedAdamW};
use crate::train::settings::Objective;

const FOLDERS: [&str; 8] = [
    "untied_mha",
    "tied_gqa_llama3",
    "odd_head_dim",
    "mistral",
    "qwen2",
    "qwen3",
    "qwen3_biases",
    "llama_biases",
];

fn load(folder: &str) -> Llama {
    Llama::from_pretrained(fixture(folder), &test_device()).unwrap()
}

#[test]
fn logits_at_every_exit() {
    check_logits(&test_device(), 1e-4);
}

/// Asserts that logits on this device match transformers within `tolerance`.
pub(crate) fn check_logits(device: &burn::tensor::Device, tolerance: f32) {
    for folder in FOLDERS {
        let model = Llama::from_pretrained(fixture(folder), device).unwrap();
        let expected = Expected::load(folder);
        let ids: Vec<u32> = expected.integers["input_ids"]
            .iter()
            .map(|&id| id as u32)
            .collect();
        let tokens = model.token_tensor(&ids, 11).unwrap();
        for depth in 1..=model.depth() {
            let logits = model.sub_model(&tokens, Exit::new(depth).unwrap()).unwrap();
            let expected = &expected.floats[&format!("logits.exit_{depth}")];
            let difference = largest_difference(expected, &values(logits));
            assert!(
                difference < tolerance,
                "{folder}, exit {depth}: {difference}"
            );
        }
    }
}

/// Through windows that move, and past the original context of YaRN.
#[test]
fn greedy_text_with_a_cache() {
    let mut compared = 0;
    for folder in FOLDERS {
        let (model, expected) = (load(folder), Expected::load(folder));
        let Some(wanted) = expected.integers.get("greedy") else {
            continue;
        };
        let ids = expected.integers["input_ids"].iter().take(5);
        let prompt = Prompt::from(ids.map(|&id| id as u32).collect::<Vec<_>>());
        let full = Exit::new(model.depth()).unwrap();
        let settings = DecodeSettings::greedy(Mode::Static(full), wanted.len());
        let decoder = Decoder::new(&model, &[prompt], settings).unwrap();
        let found: Vec<i64> = decoder.map(|step| step.unwrap().token.into()).collect();
        assert_eq!(&found, wanted, "{folder}");
        compared += 1;
    }
    assert_eq!(compared, 5);
}

#[test]
fn loss_at_every_exit() {
    for folder in FOLDERS {
        let (model, expected) = (load(folder), Expected::load(folder));
        let batch = expected.batch();
        let (tokens, targets) = model.prepare(&batch).unwrap();
        let every = Exits::every(1, 1..=model.depth()).unwrap();
        model
            .visit_exits(&tokens, &every, |exit, hidden| {
                let scores = model.target_scores(hidden, exit, &targets)?;
                let sum: f64 = scores.iter().map(|score| score.nats).sum();
                let (found, wanted) = (
                    sum / batch.supervised_tokens() as f64,
                    expected.scalar(&format!("loss.exit_{exit}")),
                );
                assert_near(found, wanted, &format!("{folder}, exit {exit}"));
                Ok(())
            })
            .unwrap();
    }
}

const OBJECTIVES: [Objective; 2] = [Objective::Flat, Objective::Plain];

fn both() -> impl Iterator<Item = (&'static str, Objective)> {
    FOLDERS
        .into_iter()
        .flat_map(|folder| OBJECTIVES.map(|objective| (folder, objective)))
}

/// Loss of `batch` with the exit weights of `schedule`; adds its gradients to `gradients`.
fn differentiate(
    model: &Llama,
    batch: &Batch,
    (exits, schedule): (&Exits, &dyn LossSchedule),
    (objective, normalizer): (Objective, usize),
    gradients: &mut NamedGradients,
) -> f64 {
    let weights = schedule.weights(exits, MicroBatch::default());
    let weighing = LossTerms {
        exits,
        weights: &weights,
        normalizer: normalizer as f64,
        distillation: None,
        gradient_limit: None,
        full_depth_head: false,
        skipping: None,
        recompute: false,
    };
    let losses = objective.differentiate(model, batch, weighing, gradients);
    let (losses, _) = read_sums(losses.unwrap(), Numbers::none()).unwrap();
    losses.iter().map(|sum| sum.weighed).sum()
}

fn norms_of(gradients: &NamedGradients) -> GradientNorms {
    let squares = read_all(vec![gradients.squares()]).unwrap().concat();
    GradientNorms::of(gradients.with_squares(&squares)).unwrap()
}

fn backward(
    model: &Llama,
    expected: &Expected,
    schedule: &dyn LossSchedule,
    objective: Objective,
) -> (f64, NamedGradients) {
    let (batch, mut named) = (expected.batch(), NamedGradients::default());
    let objective = (objective, batch.supervised_tokens());
    let exits = expected.exits();
    let loss = differentiate(model, &batch, (&exits, schedule), objective, &mut named);
    (loss, named)
}

fn assert_gradients(folder: &str, expected: &BTreeMap<&str, &Vec<f32>>, mut found: NamedGradients) {
    assert!(!expected.is_empty());
    for (name, expected) in expected {
        let gradient = found
            .take(name)
            .unwrap_or_else(|| panic!("{folder}: {name} has no gradient"));
        let difference = relative_difference(expected, &values(gradient));
        assert!(
            difference < 1e-4,
            "{folder}, gradient of {name}: {difference}"
        );
    }
}

fn assert_near(found: f64, wanted: f64, what: &str) {
    let difference = (found - wanted).abs();
    assert!(difference < 1e-5, "{what}: {found}, expected {wanted}");
}

#[test]
fn gradients_of_the_sorted_loss() {
    for (folder, objective) in both() {
        let (model, expected) = (load(folder).train(), Expected::load(folder));
        let (loss, gradients) = backward(&model, &expected, &AllExits, objective);
        assert_near(loss, expected.scalar("sorted_loss"), folder);
        let (norms, wanted) = (norms_of(&gradients), expected.scalar("grad_norm"));
        assert_near(norms.total() / wanted, 1.0, folder);
        assert_gradients(folder, &expected.group("grad."), gradients);
    }
}

#[test]
fn gradients_of_plain_fine_tuning() {
    for (folder, objective) in both() {
        let (model, expected) = (load(folder).train(), Expected::load(folder));
        let (loss, gradients) = backward(&model, &expected, &LastExit, objective);
        assert_near(loss, expected.scalar("sft_loss"), folder);
        assert_gradients(folder, &expected.group("sft_grad."), gradients);
    }
}

/// Accumulation row by row equals both rows at once, because of the normalizer.
#[test]
fn gradients_accumulated_row_by_row() {
    for (folder, objective) in both() {
        let (model, expected) = (load(folder).train(), Expected::load(folder));
        let whole = expected.batch();
        let exits = expected.exits();
        let mut named = NamedGradients::default();
        for (row, tokens) in whole.row_tokens().enumerate() {
            let tokens = tokens.to_vec();
            let mut marks = vec![false; tokens.len()];
            for target in whole.targets().iter().filter(|target| target.row == row) {
                marks[target.position + 1] = true;
            }
            let example = Example::new(tokens, marks).unwrap();
            let batch = Batch::from_examples(&[&example]).unwrap();
            let objective = (objective, whole.supervised_tokens());
            differentiate(&model, &batch, (&exits, &AllExits), objective, &mut named);
        }
        assert_gradients(folder, &expected.group("grad."), named);
    }
}

#[test]
fn two_steps_of_adamw_the_second_one_clipped() {
    for folder in FOLDERS {
        let (model, expected) = (load(folder).train(), Expected::load(folder));
        let first = AdamWSettings {
            beta2: 0.95,
            weight_decay: 0.1,
            clip_norm: None,
            ..AdamWSettings::default()
        };
        let mut optimizer = NamedAdamW::new(first);
        let (_, gradients) = backward(&model, &expected, &AllExits, Objective::Flat);
        let norms = norms_of(&gradients);
        let model = optimizer.step(model, gradients, norms, 1e-2);
        assert_parameters(folder, &expected.group("adamw."), &model);

        // The moments are saved and loaded in between, as in a resumed run.
        let folder_of_moments = tempfile::tempdir().unwrap();
        let path = folder_of_moments.path().join("optimizer.safetensors");
        optimizer.save(&path).unwrap();
        let second = AdamWSettings {
            clip_norm: Some(0.5),
            ..first
        };
        let mut optimizer = NamedAdamW::load(second, &path, &test_device()).unwrap();
        let (_, gradients) = backward(&model, &expected, &AllExits, Objective::Flat);
        let norms = norms_of(&gradients);
        assert!(
            (norms.total() / expected.scalar("grad_norm_2") - 1.0).abs() < 1e-4,
            "{folder}: {norms:?}"
        );
        let model = optimizer.step(model, gradients, norms, 5e-3);
        assert_parameters(folder, &expected.group("adamw2."), &model);
    }
}

fn assert_parameters(folder: &str, expected: &BTreeMap<&str, &Vec<f32>>, model: &Llama) {
    let found = named_tensors(model).unwrap();
    assert_eq!(found.len(), expected.len());
    for tensor in found {
        let difference = largest_difference(expected[tensor.name.as_str()], &tensor.values);
        assert!(difference < 1e-5, "{folder}, {}: {difference}", tensor.name);
    }
}

#[test]
fn what_is_saved_loads_with_the_same_weights() {
    for folder in FOLDERS {
        let model = load(folder);
        let root = tempfile::tempdir().unwrap();
        let saved = root.path().join("saved");
        model
            .save_pretrained(&saved, &SaveOptions::default())
            .unwrap();
        let again = Llama::from_pretrained(&saved, &test_device()).unwrap();
        for (before, after) in named_tensors(&model)
            .unwrap()
            .iter()
            .zip(named_tensors(&again).unwrap())
        {
            assert_eq!((&before.name, &before.values), (&after.name, &after.values));
        }
        assert_eq!(again.config().rope_theta, model.config().rope_theta);
        assert_eq!(again.config().rope_scaling, model.config().rope_scaling);
        assert_eq!(again.config().architecture, model.config().architecture);
    }
}

/// The llama3 fixture is stored in bf16, so writing bf16 loses nothing.
#[test]
fn bf16_survives_a_round_trip() {
    let model = load("tied_gqa_llama3");
    let root = tempfile::tempdir().unwrap();
    let saved = root.path().join("saved");
    let options = SaveOptions {
        dtype: DType::Bf16,
        ..SaveOptions::default()
    };
    model.save_pretrained(&saved, &options).unwrap();
    let again = Llama::from_pretrained(&saved, &test_device()).unwrap();
    for (before, after) in named_tensors(&model)
        .unwrap()
        .iter()
        .zip(named_tensors(&again).unwrap())
    {
        assert_eq!(before.values, after.values, "{}", before.name);
    }
}

/// Needs an interpreter with torch, transformers and safetensors: `SOFT_PYTHON=venv/bin/python
/// cargo test --release -p soft-burn -- --ignored transformers`.
#[test]
#[ignore = "needs Python with torch and transformers"]
fn what_is_saved_loads_in_transformers() {
    let python = std::env::var("SOFT_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    for folder in FOLDERS {
        let root = tempfile::tempdir().unwrap();
        let saved = root.path().join("saved");
        load(folder)
            .save_pretrained(&saved, &SaveOptions::default())
            .unwrap();
        let output = std::process::Command::new(&python)
            .arg(fixture("check_saved_folder.py"))
            .arg(&saved)
            .arg(fixture(folder).join("expected.safetensors"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        println!("{folder}: {said}");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{folder}: {said}{complaint}");
    }
}
