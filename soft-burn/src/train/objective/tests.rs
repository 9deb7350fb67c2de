//! The objectives against each other, and the options against autodiff of the formulas.

#![allow(clippy::unwrap_used)] // tests fail by panicking

use burn::module::Module;
use soft_core::{Example, MicroBatch, NestedModel, TrainModel};

use super::*;
use crate::model::balcony::FINAL_NORM;
use crate::model::config::LlamaConfig;
use crate::model::rope::RopeScaling;
use crate::tests::test_device;
use crate::train::exit_sums::{ExitSum, read_sums};
use crate::train::layer_dropout::LayerDropout;

/// Models that differ in key heads, tied or untied heads, and heads or blocks of single exits.
fn model(case: usize, exits: &Exits) -> Llama {
    let config = LlamaConfig {
        vocab: 23,
        d_model: 8,
        d_feed_forward: 12,
        n_layers: 4,
        n_heads: 4,
        n_kv_heads: 1 << (case % 3),
        head_dim: 6,
        norm_eps: 1e-5,
        rope_theta: 100.0,
        rope_scaling: RopeScaling::None,
        max_positions: 64,
        tied: case.is_multiple_of(2),
        initializer_range: 0.3,
        architecture: crate::model::architecture::Architecture::default(),
        other: serde_json::Map::new(),
    };
    let model = Llama::random(config, case as u64, &test_device()).unwrap();
    match case % 4 {
        3 => model.with_exit_heads(exits).unwrap().train(),
        _ if case % 8 == 1 => model.with_exit_blocks(exits).unwrap().train(),
        _ => model.train(),
    }
}

fn row(case: usize, row: usize) -> Example {
    let length = 3 + (case + row) % 5;
    let tokens = (0..length).map(|at| ((case * 5 + row * 7 + at * 3) % 23) as u32);
    let marks = (0..length).map(|at| at > row % 2).collect();
    Example::new(tokens.collect(), marks).unwrap()
}

fn batch(case: usize) -> Batch {
    let rows: Vec<_> = (0..1 + case % 3).map(|index| row(case, index)).collect();
    Batch::from_examples(&rows.iter().collect::<Vec<_>>()).unwrap()
}

fn agree(case: usize, name: &str, flat: Option<Tensor<1>>, plain: Option<Tensor<1>>) {
    let (Some(flat), Some(plain)) = (&flat, &plain) else {
        let both = (flat.is_some(), plain.is_some());
        // An exit without a weight has no gradient, or zeros with plain autodiff.
        let left = flat.or(plain).map(|g| g.abs().max().into_scalar::<f32>());
        assert_eq!(left.unwrap_or(0.0), 0.0, "{case} {name} {both:?}");
        return;
    };
    let scale: f32 = plain.clone().abs().max().into_scalar();
    let worst: f32 = (flat.clone() - plain.clone()).abs().max().into_scalar();
    assert!(
        worst <= 1e-5 * scale,
        "case {case}, {name}: {worst} of {scale}"
    );
}

fn read(unread: Vec<UnreadSums>) -> Vec<ExitSum> {
    read_sums(unread, Numbers::none()).unwrap().0
}

fn names_of(a: &NamedGradients, b: &NamedGradients) -> Vec<String> {
    a.names().into_iter().chain(b.names()).collect()
}

/// By the plain objective, the memory-flat one, and the latter with recomputed activations; with
/// the lower blocks and the embedding frozen too.
#[test]
fn flat_is_plain_on_random_models() {
    let exits: Exits = "1,2,4".parse().unwrap();
    let weights = [
        [1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0],
        [0.0, 0.0, 1.0],
        [0.7, 0.0, 0.3],
        [0.2, 0.8, 0.0],
    ];
    for case in 0..24 {
        let (model, batch) = (model(case, &exits), batch(case));
        let (model, fewest) = match case % 5 {
            4 => (model.freeze_all_but_last(1 + case % 3).unwrap(), 2),
            _ => (model, 20),
        };
        let weighing = LossTerms {
            exits: &exits,
            weights: &weights[case / 6],
            normalizer: batch.supervised_tokens() as f64,
            distillation: None,
            gradient_limit: None,
            full_depth_head: false,
            skipping: None,
            recompute: false,
        };
        let run = |objective: Objective, recompute| {
            let mut gradients = NamedGradients::default();
            let weighing = LossTerms {
                recompute,
                ..weighing
            };
            let losses = objective.differentiate(&model, &batch, weighing, &mut gradients);
            (read(losses.unwrap()), gradients)
        };
        for recompute in [false, true] {
            let (plain, mut of_plain) = run(Objective::Plain, false);
            let (flat, mut of_flat) = run(Objective::Flat, recompute);
            assert_eq!(flat.len(), plain.len(), "case {case}");
            for (flat, plain) in flat.into_iter().zip(plain) {
                assert_eq!(flat.exit, plain.exit);
                assert!(
                    (flat.nats - plain.nats).abs() <= 1e-5 * plain.nats,
                    "case {case}, exit {}",
                    flat.exit
                );
            }
            let names = names_of(&of_flat, &of_plain);
            assert!(names.len() > fewest, "case {case}: {names:?}");
            for name in names {
                agree(case, &name, of_flat.take(&name), of_plain.take(&name));
            }
        }
    }
}

/// A model with three exits whose gradients are computed with different options.
struct Asked {
    case: usize,
    model: Llama,
    batch: Batch,
    exits: Exits,
}

impl Asked {
    fn new(case: usize) -> Self {
        let exits: Exits = "1,2,4".parse().unwrap();
        Self {
            case,
            model: model(case, &exits),
            batch: batch(case),
            exits,
        }
    }

    fn row(&self, index: usize) -> Batch {
        Batch::from_examples(&[&row(self.case, index)]).unwrap()
    }

    /// Weights need not sum to 1.
    fn terms<'a>(&'a self, weights: &'a [f64; 3]) -> LossTerms<'a> {
        LossTerms {
            exits: &self.exits,
            weights,
            normalizer: 3.0,
            distillation: None,
            gradient_limit: None,
            full_depth_head: false,
            skipping: None,
            recompute: self.case % 2 == 1,
        }
    }

    /// Losses, their total and gradients.
    fn flat(&self, weighing: LossTerms) -> (Vec<ExitSum>, f64, NamedGradients) {
        let mut gradients = NamedGradients::default();
        let losses =
            Objective::Flat.differentiate(&self.model, &self.batch, weighing, &mut gradients);
        let losses = read(losses.unwrap());
        let total = losses.iter().map(|sum| sum.weighed).sum();
        (losses, total, gradients)
    }
}

/// The loss with self-distillation equals autodiff of its definition.
#[test]
fn distilling_is_the_loss_as_it_stands() {
    let weights = [0.5, 0.2, 0.3];
    for case in 0..8 {
        let asked = Asked::new(case);
        let distillation = Distillation {
            share: [0.25, 1.0][case / 4],
            temperature: [1.0, 2.0][case % 2],
        };
        let (_, found, mut of_flat) = asked.flat(LossTerms {
            distillation: Some(distillation),
            ..asked.terms(&weights)
        });

        let Distillation { share, temperature } = distillation;
        let (tokens, targets) = asked.model.prepare(&asked.batch).unwrap();
        let mut hidden = asked.model.embed(&tokens).unwrap();
        let mut logits = Vec::new();
        for (segment, exit) in asked.exits.segments().zip(asked.exits.iter()) {
            hidden = asked.model.blocks(hidden, segment, None).unwrap();
            let at_exit = asked.model.at_exit(hidden.clone(), exit, None).unwrap();
            logits.push(asked.model.target_logits(&at_exit, exit, &targets).unwrap());
        }
        let log_soft = |z: &Tensor<2>| {
            burn::tensor::activation::log_softmax(z.clone().div_scalar(temperature), 1)
        };
        let p = log_soft(&logits[2]).detach();
        let mut total: Option<Tensor<1>> = None;
        for (index, z) in logits.iter().enumerate() {
            let n = targets.len();
            let log_q = burn::tensor::activation::log_softmax(z.clone(), 1);
            let hard = log_q
                .gather(1, targets.tokens().reshape([n, 1]))
                .sum()
                .neg();
            let soft = (p.clone().exp() * (p.clone() - log_soft(z))).sum();
            let loss = match index {
                2 => hard,
                _ => {
                    hard.mul_scalar(1.0 - share)
                        + soft.mul_scalar(share * temperature * temperature)
                }
            };
            let loss = loss.mul_scalar(weights[index] / 3.0);
            total = Some(match total {
                Some(sum) => sum + loss,
                None => loss,
            });
        }
        let total = total.unwrap();
        let expected: f64 = total.clone().inner().into_scalar::<f32>().into();
        assert!((found - expected).abs() < 1e-5 * expected, "case {case}");
        let mut of_plain = NamedGradients::default();
        of_plain.add_all(named_gradients(&asked.model, &mut total.backward()));
        for name in names_of(&of_flat, &of_plain) {
            agree(case, &name, of_flat.take(&name), of_plain.take(&name));
        }
    }
}

/// An exit is distilled from the full depth even if that is not trained itself.
#[test]
fn an_exit_alone_follows_the_full_depth() {
    let asked = Asked::new(0);
    let distillation = Distillation {
        share: 1.0,
        temperature: 1.0,
    };
    let (losses, total, mut gradients) = asked.flat(LossTerms {
        distillation: Some(distillation),
        ..asked.terms(&[1.0, 0.0, 0.0])
    });
    assert_eq!(losses.len(), 1);
    assert!(losses[0].divergence > 0.0);
    assert!((total - losses[0].divergence / 3.0).abs() < 1e-6);
    let deep = gradients.take("model.layers.3.mlp.up_proj.weight");
    let moved = deep.map_or(0.0, |gradient| gradient.abs().max().into_scalar::<f32>());
    assert_eq!(moved, 0.0);
}

/// Compared with every row on its own, run through the blocks that it does not skip.
#[test]
fn skipped_blocks_are_as_if_they_were_not_there() {
    let weights = [0.5, 0.2, 0.3];
    let dropout = LayerDropout { rate: 0.9, seed: 3 };
    let (mut skipped, mut partly) = (0, 0);
    for case in [2, 5, 8, 11] {
        let asked = Asked::new(case);
        let at = MicroBatch {
            step: case as u64,
            index: 1,
        };
        let weighing = LossTerms {
            skipping: Some(Skipping { dropout, at }),
            ..asked.terms(&weights)
        };
        let mut found = NamedGradients::default();
        let losses =
            Objective::Flat.differentiate(&asked.model, &asked.batch, weighing, &mut found);
        let losses = read(losses.unwrap());
        let found_total: f64 = losses.iter().map(|sum| sum.weighed).sum();

        let mut total = Tensor::<1>::zeros([1], &asked.model.device());
        for row in 0..asked.batch.rows() {
            let (tokens, targets) = asked.model.prepare(&asked.row(row)).unwrap();
            let mut hidden = asked.model.embed(&tokens).unwrap();
            for (index, segment) in asked.exits.segments().enumerate() {
                for layer in segment {
                    let rows = 0..asked.batch.rows();
                    let drops = rows
                        .filter(|&row| dropout.drops(at, (layer, 4), row))
                        .count();
                    partly += usize::from(0 < drops && drops < asked.batch.rows());
                    if dropout.drops(at, (layer, 4), row) {
                        skipped += 1
                    } else {
                        hidden = asked.model.blocks(hidden, layer..layer + 1, None).unwrap()
                    }
                }
                let exit = asked.exits.iter().nth(index).unwrap();
                let loss = asked.model.loss(&hidden, exit, &targets).unwrap();
                total = total + loss.mul_scalar(weights[index] / 3.0);
            }
        }
        let expected: f64 = total.clone().inner().into_scalar::<f32>().into();
        assert!(
            (found_total - expected).abs() < 1e-5 * expected,
            "case {case}"
        );
        let mut wanted = NamedGradients::default();
        wanted.add_all(named_gradients(&asked.model, &mut total.backward()));
        for name in names_of(&found, &wanted) {
            agree(case, &name, found.take(&name), wanted.take(&name));
        }
    }
    assert!(skipped > 3 && partly > 3, "{skipped} {partly}");
}

fn largest(tensor: &Tensor<1>) -> f32 {
    tensor.clone().abs().max().into_scalar()
}

/// Below the exits, a limited gradient is the full depth's plus each exit's, scaled to the limit.
#[test]
fn a_limited_exit_sends_that_share_of_its_gradient() {
    let (weights, limit) = ([0.6, 0.0, 0.4], 0.3);
    for case in [0, 5, 2] {
        let asked = Asked::new(case);
        let (tokens, targets) = asked.model.prepare(&asked.batch).unwrap();
        let sent = |depth: usize, weight: f64| -> f64 {
            let hidden = asked.model.embed(&tokens).unwrap();
            let hidden = asked.model.blocks(hidden, 0..depth, None).unwrap();
            let leaf = Tensor::<3>::from_inner(hidden.inner()).require_grad();
            let exit = asked
                .exits
                .iter()
                .find(|exit| exit.depth() == depth)
                .unwrap();
            let loss = asked.model.loss(&leaf, exit, &targets).unwrap();
            let found = loss.backward();
            let gradient = leaf.grad(&found).unwrap().mul_scalar(weight / 3.0);
            f64::from(gradient.square().sum().into_scalar::<f32>()).sqrt()
        };
        // Per unit of weight.
        let share = limit * sent(4, 1.0) / sent(1, 1.0);
        assert!(share < 1.0, "case {case}: nothing to limit");

        let (_, _, mut limited) = asked.flat(LossTerms {
            gradient_limit: Some(limit),
            ..asked.terms(&weights)
        });
        let one = |weights| asked.flat(asked.terms(&weights)).2;
        let mut of_exit = one([weights[0], 0.0, 0.0]);
        let mut of_full = one([0.0, 0.0, weights[2]]);
        for name in limited.names() {
            // The limit does not affect the head, whose gradient is part of a tied embedding's.
            let is_head = name.contains("head") || name.contains("embed");
            let (Some(found), false) = (limited.take(&name), is_head) else {
                continue;
            };
            let mut expected = of_full.take(&name).unwrap_or_else(|| found.zeros_like());
            if let Some(gradient) = of_exit.take(&name) {
                expected = expected + gradient.mul_scalar(share);
            }
            let worst = largest(&(found.clone() - expected.clone()));
            assert!(worst <= 1e-5 * largest(&expected), "case {case}, {name}");
        }
    }
}

#[test]
fn norm_and_head_are_moved_by_the_full_depth_alone_if_so_told() {
    let weights = [0.5, 0.2, 0.3];
    for case in [0, 5] {
        let asked = Asked::new(case);
        let (_, _, mut found) = asked.flat(LossTerms {
            full_depth_head: true,
            ..asked.terms(&weights)
        });
        let (_, _, mut of_full) = asked.flat(asked.terms(&[0.0, 0.0, 0.3]));
        let (_, _, mut of_all) = asked.flat(asked.terms(&weights));
        for name in of_all.names() {
            let (found, full, all) = (found.take(&name), of_full.take(&name), of_all.take(&name));
            if name == FINAL_NORM || name == "lm_head.weight" {
                agree(case, &name, found, full);
            } else if !name.contains("embed") {
                agree(case, &name, found, all);
            }
        }
    }
}
