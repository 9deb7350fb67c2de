//! Cross-entropy of a linear head and its gradients in one go, a few states at a time.
//!
//! The logits of a large vocabulary are the widest tensor of training: one state of SmolLM2 has 49,152 of them beside
//! 576 numbers of its own. Their gradient is known in closed form, softmax(z) − one-hot(target), so they need
//! not wait for a backward pass: here they live for as long as one chunk of states needs them. Knows tensors
//! without autodiff; knows no exits and no model.

use burn::tensor::{IndexingUpdateOp, Int, Tensor, activation};

use crate::layers::project;

/// Some states, what each must predict, and how much it counts.
pub(crate) struct Predictions {
    /// Normed states, `[n, d_model]`.
    pub states: Tensor<2>,
    /// The token each must predict, `[n]`.
    pub tokens: Tensor<1, Int>,
    /// What each state's cross-entropy is multiplied by in the loss, `[n]`.
    pub scales: Tensor<1>,
}

/// What [`Predictions`] cost, and what would lower it.
pub(crate) struct HeadGradients {
    /// Cross-entropy of each state in nats, not scaled, `[n]`.
    pub nats: Tensor<1>,
    /// Gradient of Σ scale · nats into the states, `[n, d_model]`.
    pub states: Tensor<2>,
    /// The same into the head, `[vocab, d_model]`, when asked for.
    pub weight: Option<Tensor<2>>,
}

/// Logits that may be held at a time, in numbers: 64 MB in f32.
const LOGITS: usize = 1 << 24;

/// Losses and gradients of `predictions` by the head `weight`, `[vocab, d_model]`; the gradient into the head is computed
/// if it is `trained`.
pub(crate) fn head_gradients(
    predictions: Predictions,
    weight: Tensor<2>,
    trained: bool,
) -> HeadGradients {
    in_chunks(predictions, weight, trained, LOGITS)
}

fn in_chunks(
    predictions: Predictions,
    weight: Tensor<2>,
    trained: bool,
    logits: usize,
) -> HeadGradients {
    let [n, _] = predictions.states.dims();
    let [vocab, _] = weight.dims();
    let chunk = (logits / vocab).max(1);
    let (mut nats, mut states, mut head) = (Vec::new(), Vec::new(), None::<Tensor<2>>);
    for start in (0..n).step_by(chunk) {
        let part = start..n.min(start + chunk);
        let x = predictions.states.clone().slice(part.clone());
        let tokens = predictions.tokens.clone().slice(part.clone());
        let scales = predictions.scales.clone().slice(part);
        let (loss, gradient) = cross_entropy(project(x.clone(), weight.clone()), tokens, scales);
        nats.push(loss);
        if trained {
            let part = gradient.clone().transpose().matmul(x);
            head = Some(match head {
                Some(sum) => sum + part,
                None => part,
            });
        }
        states.push(gradient.matmul(weight.clone()));
    }
    HeadGradients {
        nats: Tensor::cat(nats, 0),
        states: Tensor::cat(states, 0),
        weight: head,
    }
}

/// −log softmax(logits)\[token\] of every row, `[n]`, and the gradient of the scaled sum into the logits, `[n, vocab]`.
fn cross_entropy(
    logits: Tensor<2>,
    tokens: Tensor<1, Int>,
    scales: Tensor<1>,
) -> (Tensor<1>, Tensor<2>) {
    let [n, _] = logits.dims();
    let tokens = tokens.reshape([n, 1]);
    let log_probabilities = activation::log_softmax(logits, 1);
    let nats = log_probabilities.clone().gather(1, tokens.clone()).neg();
    let scales = scales.reshape([n, 1]);
    let gradient = (log_probabilities.exp() * scales.clone()).scatter(
        1,
        tokens,
        scales.neg(),
        IndexingUpdateOp::Add,
    );
    (nats.reshape([n]), gradient)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    #![allow(clippy::unwrap_used)] // a test's way to fail

    use burn::tensor::{Device, Distribution, TensorData};

    use super::*;

    const VOCAB: usize = 13;
    const WIDTH: usize = 5;

    fn random(shape: [usize; 2], device: &Device) -> Tensor<2> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    }

    fn predictions(n: usize, device: &Device) -> Predictions {
        let tokens: Vec<i64> = (0..n).map(|i| (i * 7 % VOCAB) as i64).collect();
        let scales: Vec<f32> = (0..n).map(|i| 0.1 + i as f32 / 8.0).collect();
        Predictions {
            states: random([n, WIDTH], device),
            tokens: Tensor::from_data(TensorData::new(tokens, [n]), device),
            scales: Tensor::from_data(TensorData::new(scales, [n]), device),
        }
    }

    /// Largest difference of two tensors, as a part of the largest number of the first.
    fn difference(a: Tensor<2>, b: Tensor<2>) -> f32 {
        let scale: f32 = a.clone().abs().max().into_scalar();
        (a - b).abs().max().into_scalar::<f32>() / scale
    }

    #[test]
    fn is_what_autodiff_computes_whatever_the_chunk() {
        let device = crate::device("cpu").unwrap();
        let (n, weight) = (11, random([VOCAB, WIDTH], &device));
        let given = predictions(n, &device);
        let (states, tracked) = (given.states.clone(), weight.clone());
        let (x, w) = (
            states.clone().autodiff().require_grad(),
            tracked.autodiff().require_grad(),
        );
        let log_probabilities = activation::log_softmax(project(x.clone(), w.clone()), 1);
        let tokens = Tensor::from_inner(given.tokens.clone()).reshape([n, 1]);
        let nats = log_probabilities.gather(1, tokens).neg();
        let scaled = nats.clone() * Tensor::from_inner(given.scales.clone()).reshape([n, 1]);
        let gradients = scaled.sum().backward();
        for logits in [1, 3 * VOCAB, 1000 * VOCAB] {
            let given = predictions(n, &device);
            let given = Predictions {
                states: states.clone(),
                ..given
            };
            let found = in_chunks(given, weight.clone(), true, logits);
            let losses = found.nats.reshape([n, 1]);
            assert!(difference(nats.clone().inner(), losses) < 1e-5);
            assert!(difference(x.grad(&gradients).unwrap(), found.states) < 1e-5);
            assert!(difference(w.grad(&gradients).unwrap(), found.weight.unwrap()) < 1e-5);
        }
    }

    #[test]
    fn a_frozen_head_gets_no_gradient() {
        let device = crate::device("cpu").unwrap();
        let weight = random([VOCAB, WIDTH], &device);
        let found = head_gradients(predictions(4, &device), weight, false);
        assert!(found.weight.is_none());
        assert_eq!(found.states.dims(), [4, WIDTH]);
    }
}
