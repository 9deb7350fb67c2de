//! The SwiGLU gate for training: silu(gate) · up in one pass, and one pass for each gradient.
//!
//! Tensor operations take four passes forward and eight backward over the widest states of a block.
//! Reference: `layers::FeedForward`. For Burn's autodiff on flex without gradient checkpointing.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, binary};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{DType as TensorDType, Tensor};
use pulp::Arch;
use rayon::prelude::*;

use super::exp::exp;
use super::host::{flat, from_values};

/// `silu(gate) · up`; `None` unless both are f32 with autodiff on flex and have the same shape.
pub(crate) fn swiglu(gate: &Tensor<2>, up: &Tensor<2>) -> Option<Tensor<2>> {
    if gate.dtype() != TensorDType::F32
        || up.dtype() != TensorDType::F32
        || gate.dims() != up.dims()
    {
        return None;
    }
    let gate = gate.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let up = up.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let ((gate, gate_node), (up, up_node)) = (gate.into_parts(), up.into_parts());
    let factors = Factors {
        gate: flat(gate),
        up: flat(up),
    };
    let out = factors.zip(None, |gate, up, _| gate * sigmoid(gate) * up);
    let prepared = SwiGlu.prepare::<NoCheckpointing>([gate_node, up_node]);
    let out = match prepared.compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(factors, out),
        OpsKind::UnTracked(prepared) => prepared.finish(out),
    };
    Some(Tensor::from_primitive::<Autodiff<Flex>>(out))
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[derive(Debug)]
struct SwiGlu;

#[derive(Clone, Debug)]
struct Factors {
    gate: FloatTensor<Flex>,
    up: FloatTensor<Flex>,
}

/// Elements per parallel task.
const CHUNK: usize = 1 << 13;

impl Factors {
    /// Applies `of(gate, up, gradient)` to all elements; without a gradient its value is 0.
    fn zip(
        &self,
        gradient: Option<&FloatTensor<Flex>>,
        of: impl Fn(f32, f32, f32) -> f32 + Sync,
    ) -> FloatTensor<Flex> {
        let (gate, up) = (self.gate.storage::<f32>(), self.up.storage::<f32>());
        let gradient = gradient.map(|gradient| gradient.storage::<f32>());
        let mut out = vec![0.0; gate.len()];
        let arch = Arch::new();
        out.par_chunks_mut(CHUNK)
            .enumerate()
            .for_each(|(index, out)| {
                let part = |all: &[f32]| index * CHUNK..(index * CHUNK + CHUNK).min(all.len());
                let (gate, up) = (&gate[part(gate)], &up[part(up)]);
                arch.dispatch(
                    #[inline(always)]
                    || {
                        let factors = gate.iter().zip(up);
                        match gradient {
                            None => {
                                for (out, (gate, up)) in out.iter_mut().zip(factors) {
                                    *out = of(*gate, *up, 0.0);
                                }
                            }
                            Some(gradient) => {
                                let factors = factors.zip(&gradient[part(gradient)]);
                                for (out, ((gate, up), gradient)) in out.iter_mut().zip(factors) {
                                    *out = of(*gate, *up, *gradient);
                                }
                            }
                        }
                    },
                );
            });
        from_values(out, self.gate.shape())
    }
}

impl Backward<Flex, 2> for SwiGlu {
    type State = Factors;

    fn backward(
        self,
        ops: Ops<Factors, 2>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let factors = ops.state;
        binary::<Flex, _, _>(
            ops.parents,
            ops.node,
            gradients,
            |gradient| {
                factors.zip(Some(&flat(gradient)), |gate, up, gradient| {
                    let s = sigmoid(gate);
                    gradient * up * s * (1.0 + gate * (1.0 - s))
                })
            },
            |gradient| {
                factors.zip(Some(&flat(gradient)), |gate, _, gradient| {
                    gradient * gate * sigmoid(gate)
                })
            },
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // tests fail by panicking

    use burn::tensor::{Distribution, activation};

    use super::*;

    #[test]
    fn values_and_gradients_are_those_of_the_plain_operations() {
        let device = crate::device::device("cpu").unwrap().autodiff();
        let shape = [3, CHUNK / 2 + 5];
        let random = || Tensor::<2>::random(shape, Distribution::Normal(0.0, 3.0), &device);
        let (gate, up, scores) = (random().require_grad(), random().require_grad(), random());
        let ours = swiglu(&gate, &up).unwrap();
        let theirs = activation::silu(gate.clone()) * up.clone();
        let [ours, theirs] = [ours, theirs].map(|out| {
            let found = (out.clone() * scores.clone()).sum().backward();
            let (gate, up) = (gate.grad(&found).unwrap(), up.grad(&found).unwrap());
            [out.inner(), gate, up]
        });
        for (ours, theirs) in ours.into_iter().zip(theirs) {
            let scale: f32 = theirs.clone().abs().max().into_scalar();
            let worst: f32 = (ours - theirs).abs().max().into_scalar();
            assert!(worst <= 1e-5 * scale, "{worst} of {scale}");
        }
    }
}
