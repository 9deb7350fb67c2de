//! Attention weights for training: scale, mask and softmax in one pass, the gradient in another.
//!
//! Scores of masked keys are not read. Reference: the tensor operations of `attention`. Supports
//! Burn's autodiff on flex without gradient checkpointing.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{DType as TensorDType, Tensor};
use pulp::Arch;
use rayon::prelude::*;

use super::exp::exp;
use super::host::{flat, from_values};

/// `softmax(scale · scores)`, `[rows, heads, seq, keys]` to the same shape, where position i
/// attends to keys 0 to i and the weights of other keys are 0. `None` unless `seq` equals `keys`
/// and the scores are f32 with autodiff on flex.
pub(crate) fn causal_softmax(scores: &Tensor<4>, scale: f32) -> Option<Tensor<4>> {
    let [_, _, seq, keys] = scores.dims();
    if scores.dtype() != TensorDType::F32 || seq != keys {
        return None;
    }
    let scores = scores.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let (scores, node) = scores.into_parts();
    let weights = weights(&flat(scores), scale, keys);
    let prepared = CausalSoftmax.prepare::<NoCheckpointing>([node]);
    let out = match prepared.compute_bound().stateful() {
        OpsKind::Tracked(prepared) => {
            let state = Kept {
                weights: weights.clone(),
                scale,
                keys,
            };
            prepared.finish(state, weights)
        }
        OpsKind::UnTracked(prepared) => prepared.finish(weights),
    };
    Some(Tensor::from_primitive::<Autodiff<Flex>>(out))
}

fn weights(scores: &FloatTensor<Flex>, scale: f32, keys: usize) -> FloatTensor<Flex> {
    let scores_of = scores.storage::<f32>();
    let mut out = vec![0.0; scores_of.len()];
    let arch = Arch::new();
    let rows = out.par_chunks_mut(keys).zip(scores_of.par_chunks(keys));
    rows.enumerate().for_each(|(index, (out, scores))| {
        let seen = index % keys + 1;
        arch.dispatch(
            #[inline(always)]
            || {
                let (out, scores) = (&mut out[..seen], &scores[..seen]);
                let highest = scores.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
                let mut sum = 0.0;
                for (out, score) in out.iter_mut().zip(scores) {
                    *out = exp((score - highest) * scale);
                }
                out.iter().for_each(|weight| sum += weight);
                let factor = 1.0 / sum;
                out.iter_mut().for_each(|weight| *weight *= factor);
            },
        );
    });
    from_values(out, scores.shape())
}

#[derive(Debug)]
struct CausalSoftmax;

#[derive(Clone, Debug)]
struct Kept {
    weights: FloatTensor<Flex>,
    scale: f32,
    keys: usize,
}

impl Backward<Flex, 1> for CausalSoftmax {
    type State = Kept;

    /// scale · w · (g − Σ g · w), with weights w and their gradient g.
    fn backward(
        self,
        ops: Ops<Kept, 1>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let Kept {
            weights,
            scale,
            keys,
        } = ops.state;
        unary::<Flex, _>(ops.parents, ops.node, gradients, |gradient| {
            let gradient = flat(gradient);
            let (weights_of, gradient) = (weights.storage::<f32>(), gradient.storage::<f32>());
            let mut out = vec![0.0; weights_of.len()];
            let arch = Arch::new();
            let rows = out
                .par_chunks_mut(keys)
                .zip(weights_of.par_chunks(keys))
                .zip(gradient.par_chunks(keys));
            rows.enumerate()
                .for_each(|(index, ((out, weights), gradient))| {
                    let seen = index % keys + 1;
                    arch.dispatch(
                        #[inline(always)]
                        || {
                            let pairs = || weights[..seen].iter().zip(&gradient[..seen]);
                            let mean: f32 = pairs().map(|(w, g)| w * g).sum();
                            for (out, (w, g)) in out.iter_mut().zip(pairs()) {
                                *out = scale * w * (g - mean);
                            }
                        },
                    );
                });
            from_values(out, weights.shape())
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // tests fail by panicking

    use burn::tensor::{Distribution, TensorData, activation};

    use super::*;

    #[test]
    fn values_and_gradients_are_those_of_the_plain_operations() {
        let device = crate::device::device("cpu").unwrap().autodiff();
        let (seq, scale) = (9, 0.37);
        let random = || {
            let distribution = Distribution::Normal(0.0, 4.0);
            Tensor::<4>::random([2, 3, seq, seq], distribution, &device)
        };
        let mask: Vec<f32> = (0..seq * seq)
            .map(|i| {
                if i % seq > i / seq {
                    f32::NEG_INFINITY
                } else {
                    0.0
                }
            })
            .collect();
        let mask = Tensor::<4>::from_data(TensorData::new(mask, [1, 1, seq, seq]), &device);
        let (scores, probe) = (random().require_grad(), random());
        let ours = causal_softmax(&scores, scale).unwrap();
        let theirs = activation::softmax(scores.clone().mul_scalar(scale) + mask, 3);
        let [ours, theirs] = [ours, theirs].map(|out| {
            let found = (out.clone() * probe.clone()).sum().backward();
            [out.inner(), scores.grad(&found).unwrap()]
        });
        for (ours, theirs) in ours.into_iter().zip(theirs) {
            let worst: f32 = (ours - theirs).abs().max().into_scalar();
            assert!(worst < 2e-6, "{worst}");
        }
    }
}
