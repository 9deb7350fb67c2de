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

use burn::tensor::{FloatDType, IndexingUpdateOp, Int, Tensor, activation};

use crate::dtype::to_f32;
#[cfg(feature = "flex")]
use crate::ops::flex;
use crate::ops::linear::{matmul, project};
use crate::ops::transfers::Numbers;
use terms::{ChunkLosses, HeadGradients, Predictions, Scales};

/// Maximum number of logits held at a time: 64 MB in f32.
const LOGITS: usize = 1 << 24;

/// Losses and gradients of `predictions` with the head `weight`, `[vocab, d_model]`; `learns` is
/// whether the head's own gradient is computed.
pub(crate) fn head_gradients(
    predictions: Predictions,
    weight: Tensor<2>,
    learns: bool,
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
    learns: bool,
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
        nats: Numbers::Read(found.nats),
        divergence: Numbers::Read(found.divergence),
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
    learns: bool,
    positions: usize,
) -> HeadGradients {
    let Predictions {
        states,
        tokens,
        terms,
        teacher,
    } = predictions;
    let (exits, [n]) = (terms.len(), tokens.dims());
    let temperature = teacher.as_ref().map_or(1.0, |teacher| teacher.temperature);
    let scales = Scales::new(&terms, temperature, &weight.device());
    let (mut nats, mut divergence, mut into_states) = (Vec::new(), Vec::new(), Vec::new());
    let mut of_weight: Option<Tensor<2>> = None;
    for start in (0..n).step_by(positions) {
        let part = start..n.min(start + positions);
        let x = states.clone().slice(part.start * exits..part.end * exits);
        let taught = teacher.as_ref().map(|teacher| {
            let states = teacher.states.clone().slice(part.clone());
            project(states, teacher.weight.clone())
        });
        let logits = project(x.clone(), weight.clone());
        let found = losses(logits, taught, tokens.clone().slice(part), &scales);
        nats.push(found.nats);
        divergence.extend(found.divergence);
        if learns {
            let moving = to_f32(matmul(found.gradient.clone().transpose(), x));
            of_weight = Some(match of_weight {
                Some(sum) => sum + moving,
                None => moving,
            });
        }
        into_states.push(matmul(found.gradient, weight.clone()));
    }
    HeadGradients {
        nats: sums_per_exit(nats),
        divergence: sums_per_exit(divergence),
        states: if into_states.is_empty() {
            states
        } else {
            Tensor::cat(into_states, 0)
        },
        weight: of_weight,
    }
}

/// The sums over positions of `[positions, exits]` each.
fn sums_per_exit(chunks: Vec<Tensor<2>>) -> Numbers {
    if chunks.is_empty() {
        return Numbers::none();
    }
    let sums = Tensor::cat(chunks, 0).sum_dim(0);
    let exits = sums.dims()[1];
    Numbers::Unread(sums.reshape([exits]))
}

/// Losses of logits `[positions · exits, vocab]`, ordered by position and then by exit, and their
/// gradient in the type of the logits. `taught` are the teacher's, `[positions, vocab]`.
fn losses(
    logits: Tensor<2>,
    taught: Option<Tensor<2>>,
    tokens: Tensor<1, Int>,
    scales: &Scales,
) -> ChunkLosses {
    #[cfg(feature = "cube")]
    if crate::ops::cube::runs_on(&logits.device()) {
        return crate::ops::cube::losses(logits, taught, tokens, scales);
    }
    let dtype = FloatDType::from(logits.dtype());
    let logits = to_f32(logits);
    let (nats, mut gradient) = cross_entropy(logits.clone(), tokens, scales);
    let mut apart = None;
    if let Some(taught) = taught {
        let (nats, further) = divergence(logits, to_f32(taught), scales);
        apart = Some(nats);
        gradient = gradient + further;
    }
    ChunkLosses {
        nats,
        divergence: apart,
        gradient: match dtype {
            FloatDType::F32 => gradient,
            other => gradient.cast(other),
        },
    }
}

/// −log softmax(logits)\[token\], `[positions, exits]`, and the gradient of the scaled sum with
/// respect to the logits.
fn cross_entropy(
    logits: Tensor<2>,
    tokens: Tensor<1, Int>,
    scales: &Scales,
) -> (Tensor<2>, Tensor<2>) {
    let ([n], exits) = (tokens.dims(), scales.exits());
    let tokens = tokens.reshape([n, 1]).repeat_dim(1, exits);
    let tokens = tokens.reshape([n * exits, 1]);
    let log_probabilities = activation::log_softmax(logits, 1);
    let nats = log_probabilities.clone().gather(1, tokens.clone()).neg();
    let scales = scales.per_row(0, n * exits);
    let gradient = (log_probabilities.exp() * scales.clone()).scatter(
        1,
        tokens,
        scales.neg(),
        IndexingUpdateOp::Add,
    );
    (nats.reshape([n, exits]), gradient)
}

/// KL(teacher ‖ exit), `[positions, exits]`, 0 where the term has no soft part, and the gradient of
/// the scaled sum with respect to the logits.
fn divergence(logits: Tensor<2>, taught: Tensor<2>, scales: &Scales) -> (Tensor<2>, Tensor<2>) {
    let [rows, vocab] = logits.dims();
    let exits = scales.exits();
    let n = rows / exits;
    let log_soft =
        |logits: Tensor<2>| activation::log_softmax(logits.div_scalar(scales.temperature), 1);
    let p = log_soft(taught).unsqueeze_dim::<3>(1);
    let q = log_soft(logits).reshape([n, exits, vocab]);
    let nats = (p.clone().exp() * (p.clone() - q.clone())).sum_dim(2);
    let soft = scales.per_row(1, rows);
    let counts = soft.clone().not_equal_elem(0.0).float();
    let nats = nats.reshape([n, exits]) * counts.reshape([n, exits]);
    let gradient = (q.exp() - p.exp()).reshape([rows, vocab]);
    (nats, gradient * soft.mul_scalar(scales.temperature))
}

#[cfg(all(test, feature = "flex"))]
mod tests;
