//! Losses of a linear head and their gradients, a few positions at a time.
//!
//! The logits of a large vocabulary are the widest tensor of training: a state of SmolLM2 has 576
//! elements and 49,152 logits. The gradient of a cross-entropy is known, softmax(z) −
//! one-hot(target), so that logits are kept for one chunk of positions only.
//!
//! An exit can also be trained on the output of the full model (self-distillation): T² · KL(p ‖ q),
//! with p and q the probabilities of full model and exit at temperature T. The gradient with
//! respect to the exit's logits is T · (q − p); T² keeps its size independent of T. Source: Hinton
//! et al., *Distilling the Knowledge in a Neural Network* (arXiv 1503.02531).
//!
//! Operates on tensors without autodiff.

pub(crate) mod terms;

use burn::tensor::{DType as TensorDType, FloatDType, IndexingUpdateOp, Int, Tensor, activation};

use crate::dtype::to_f32;
#[cfg(feature = "flex")]
use crate::ops::flex;
use crate::ops::linear::project;
use terms::{HeadGradients, HeadLearns, Predictions, Teacher, Term};

/// Maximum number of logits held at a time: 64 MB in f32.
const LOGITS: usize = 1 << 24;

/// Losses and gradients of `predictions` with the head `weight`, `[vocab, d_model]`.
pub(crate) fn head_gradients(
    predictions: Predictions,
    weight: Tensor<2>,
    learns: HeadLearns,
) -> HeadGradients {
    let [vocab, _] = weight.dims();
    let positions = (LOGITS / (vocab * predictions.terms.len())).max(1);
    #[cfg(feature = "flex")]
    if let Some(found) = on_host(&predictions, &weight, learns, positions) {
        return found;
    }
    in_chunks(predictions, weight, learns, positions)
}

/// Runs the CPU kernel; `None` unless all tensors are f32 on flex.
#[cfg(feature = "flex")]
fn on_host(
    predictions: &Predictions,
    weight: &Tensor<2>,
    learns: HeadLearns,
    positions: usize,
) -> Option<HeadGradients> {
    use flex::{HeadRun, HostTeacher, host, is_flex_f32};

    if !is_flex_f32(&predictions.states) || !is_flex_f32(weight) {
        return None;
    }
    let states = host(predictions.states.clone()).ok()?;
    let head = host(weight.clone()).ok()?;
    let taught = match &predictions.teacher {
        Some(teacher) => Some((
            host(teacher.states.clone()).ok()?,
            host(teacher.weight.clone()).ok()?,
            teacher.temperature as f32,
        )),
        None => None,
    };
    let tokens = predictions.tokens.clone().into_data();
    let tokens: Vec<usize> = tokens.iter::<i64>().map(|token| token as usize).collect();
    let found = HeadRun {
        states: states.values(),
        d_model: weight.dims()[1],
        tokens: &tokens,
        terms: &predictions.terms,
        weight: head.values(),
        learns,
        teacher: taught
            .as_ref()
            .map(|(states, weight, temperature)| HostTeacher {
                states: states.values(),
                weight: weight.values(),
                temperature: *temperature,
            }),
        positions,
    }
    .run();
    Some(HeadGradients {
        nats: found.nats,
        divergence: found.divergence,
        states: flex::tensor(found.states, predictions.states.dims(), weight),
        weight: found
            .weight
            .map(|gradient| flex::tensor(gradient, weight.dims(), weight)),
    })
}

/// Runs tensor operations, `positions` at a time.
fn in_chunks(
    predictions: Predictions,
    weight: Tensor<2>,
    learns: HeadLearns,
    positions: usize,
) -> HeadGradients {
    let exits = predictions.terms.len();
    let [n] = predictions.tokens.dims();
    let as_weights = |gradient: Tensor<2>| match weight.dtype() {
        TensorDType::F32 => gradient,
        other => gradient.cast(FloatDType::from(other)),
    };
    let mut found = HeadGradients {
        nats: vec![0.0; exits],
        divergence: vec![0.0; exits],
        states: predictions.states.clone(),
        weight: None,
    };
    // Read at the end instead of chunk by chunk, since each read waits for the device.
    let (mut hard, mut soft, mut states) = (Vec::new(), Vec::new(), Vec::new());
    for start in (0..n).step_by(positions) {
        let part = start..n.min(start + positions);
        let rows = part.start * exits..part.end * exits;
        let x = predictions.states.clone().slice(rows);
        let tokens = predictions.tokens.clone().slice(part.clone());
        let logits = to_f32(project(x.clone(), weight.clone()));
        let (nats, mut gradient) = cross_entropy(logits.clone(), tokens, &predictions.terms);
        hard.push(nats.sum_dim(0));
        if let Some(teacher) = &predictions.teacher {
            let (nats, moved) = divergence(logits, teacher, part, &predictions.terms);
            soft.push(nats.sum_dim(0));
            gradient = gradient + moved;
        }
        let gradient = as_weights(gradient);
        if let Some(moving) = moving(&gradient, &x, exits, learns) {
            let moving = to_f32(moving);
            found.weight = Some(match found.weight {
                Some(sum) => sum + moving,
                None => moving,
            });
        }
        states.push(gradient.matmul(weight.clone()));
    }
    add_per_exit(&mut found.nats, hard);
    add_per_exit(&mut found.divergence, soft);
    if !states.is_empty() {
        found.states = Tensor::cat(states, 0);
    }
    found
}

/// The gradient of the head, `[vocab, d_model]`, from those of the logits and from the states.
fn moving(
    gradient: &Tensor<2>,
    x: &Tensor<2>,
    exits: usize,
    learns: HeadLearns,
) -> Option<Tensor<2>> {
    let last = |tensor: &Tensor<2>| {
        let [rows, width] = tensor.dims();
        let by_position = tensor.clone().reshape([rows / exits, exits, width]);
        let last = by_position.narrow(1, exits - 1, 1);
        last.reshape([rows / exits, width])
    };
    let (gradient, x) = match learns {
        HeadLearns::Nothing => return None,
        HeadLearns::FromAll => (gradient.clone(), x.clone()),
        HeadLearns::FromTheLastExit => (last(gradient), last(x)),
    };
    Some(gradient.transpose().matmul(x))
}

/// The value of each row's exit, `[n · exits, 1]`, for rows ordered by position and then by exit.
fn per_row(of_exit: impl Fn(&Term) -> f32, terms: &[Term], like: &Tensor<2>) -> Tensor<2> {
    let [rows, _] = like.dims();
    let values: Vec<f32> = terms.iter().map(of_exit).collect();
    let values = Tensor::<1>::from_data(values.as_slice(), &like.device());
    let repeated = values
        .reshape([1, terms.len()])
        .repeat_dim(0, rows / terms.len());
    repeated.reshape([rows, 1])
}

/// Adds the losses of several chunks, `[1, exits]` each.
fn add_per_exit(sums: &mut [f64], chunks: Vec<Tensor<2>>) {
    if chunks.is_empty() {
        return;
    }
    let values = Tensor::cat(chunks, 0).into_data();
    let exits = sums.len();
    for (index, value) in values.iter::<f32>().enumerate() {
        sums[index % exits] += f64::from(value);
    }
}

/// −log softmax(logits)\[token\], `[n, exits]`, and the gradient of the scaled sum with respect to
/// the logits, `[n · exits, vocab]`.
fn cross_entropy(
    logits: Tensor<2>,
    tokens: Tensor<1, Int>,
    terms: &[Term],
) -> (Tensor<2>, Tensor<2>) {
    let ([n], exits) = (tokens.dims(), terms.len());
    let tokens = tokens.reshape([n, 1]).repeat_dim(1, exits);
    let tokens = tokens.reshape([n * exits, 1]);
    let log_probabilities = activation::log_softmax(logits, 1);
    let nats = log_probabilities.clone().gather(1, tokens.clone()).neg();
    let scales = per_row(|term| term.hard, terms, &nats);
    let gradient = (log_probabilities.exp() * scales.clone()).scatter(
        1,
        tokens,
        scales.neg(),
        IndexingUpdateOp::Add,
    );
    (nats.reshape([n, exits]), gradient)
}

/// KL(teacher ‖ exit) at these positions, `[n, exits]`, 0 where the term has no soft part, and the
/// gradient of the scaled sum with respect to the logits, `[n · exits, vocab]`.
fn divergence(
    logits: Tensor<2>,
    teacher: &Teacher,
    positions: std::ops::Range<usize>,
    terms: &[Term],
) -> (Tensor<2>, Tensor<2>) {
    let [rows, vocab] = logits.dims();
    let (n, exits) = (positions.len(), terms.len());
    let states = teacher.states.clone().slice(positions);
    let log_soft = |logits: Tensor<2>| {
        activation::log_softmax(to_f32(logits).div_scalar(teacher.temperature), 1)
    };
    let scales = per_row(|term| term.soft, terms, &logits);
    let p = log_soft(project(states, teacher.weight.clone())).unsqueeze_dim::<3>(1);
    let q = log_soft(logits).reshape([n, exits, vocab]);
    let nats = (p.clone().exp() * (p.clone() - q.clone())).sum_dim(2);
    let counts = scales.clone().not_equal_elem(0.0).float();
    let nats = nats.reshape([n, exits]) * counts.reshape([n, exits]);
    let gradient = (q.exp() - p.exp()).reshape([rows, vocab]);
    let gradient = gradient * scales.mul_scalar(teacher.temperature);
    (nats, gradient)
}

#[cfg(all(test, feature = "flex"))]
mod tests;
