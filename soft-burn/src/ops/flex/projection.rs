//! A linear layer for training: x · weightᵀ, and its gradients as needed.
//!
//! With tensor operations the gradient of a weight is computed transposed and then copied into the
//! weight's layout for the optimizer. These are the largest arrays of training. Here it is computed
//! in the weight's own layout. Supports Burn's autodiff on flex without gradient checkpointing;
//! `ops::linear` uses tensor operations otherwise.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, binary};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{DType as TensorDType, Tensor};

use super::gemm::{Matrix, Onto, gemm};
use super::host::{flat, from_values};

/// `[n, d_in]`, `[d_out, d_in]` to `[n, d_out]`; `None` unless both are f32 with autodiff on flex.
pub(crate) fn project(x: &Tensor<2>, weight: &Tensor<2>) -> Option<Tensor<2>> {
    if x.dtype() != TensorDType::F32 || weight.dtype() != TensorDType::F32 {
        return None;
    }
    let (x_shape, weight_shape) = (x.dims(), weight.dims());
    let x = x.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let weight = weight.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let (x_tracked, weight_tracked) = (x.is_tracked(), weight.is_tracked());
    let (x, x_node) = x.into_parts();
    let (weight, weight_node) = weight.into_parts();
    let (x, weight) = (flat(x), flat(weight));
    let out = product(
        Matrix::new(x.storage(), x_shape[1]),
        Matrix::new(weight.storage(), weight_shape[1]).transposed(),
        [x_shape[0], weight_shape[0]],
    );
    let prepared = Projection
        .prepare::<NoCheckpointing>([x_node, weight_node])
        .compute_bound();
    let out = match prepared.stateful() {
        OpsKind::Tracked(prepared) => {
            let state = Factors {
                x: weight_tracked.then_some(x),
                weight: x_tracked.then_some(weight),
                d_in: x_shape[1],
            };
            prepared.finish(state, out)
        }
        OpsKind::UnTracked(prepared) => prepared.finish(out),
    };
    Some(Tensor::from_primitive::<Autodiff<Flex>>(out))
}

fn product(lhs: Matrix, rhs: Matrix, shape: [usize; 2]) -> FloatTensor<Flex> {
    let mut out = vec![0.0; shape[0] * shape[1]];
    gemm(lhs, rhs, &mut out, Onto::Fresh);
    from_values(out, shape)
}

#[derive(Debug)]
struct Projection;

/// Saved for the gradients: each factor is needed for the gradient of the other.
#[derive(Clone, Debug)]
struct Factors {
    x: Option<FloatTensor<Flex>>,
    weight: Option<FloatTensor<Flex>>,
    d_in: usize,
}

impl Backward<Flex, 2> for Projection {
    type State = Factors;

    fn backward(
        self,
        ops: Ops<Factors, 2>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let Factors { x, weight, d_in } = ops.state;
        binary::<Flex, _, _>(
            ops.parents,
            ops.node,
            gradients,
            |gradient| match &weight {
                Some(weight) => {
                    let [n, d_out] = gradient.shape().dims();
                    let gradient = flat(gradient);
                    let weight = Matrix::new(weight.storage(), d_in);
                    product(Matrix::new(gradient.storage(), d_out), weight, [n, d_in])
                }
                None => gradient,
            },
            |gradient| match &x {
                Some(x) => {
                    let [_, d_out] = gradient.shape().dims();
                    let gradient = flat(gradient);
                    let gradient = Matrix::new(gradient.storage(), d_out).transposed();
                    product(gradient, Matrix::new(x.storage(), d_in), [d_out, d_in])
                }
                None => gradient,
            },
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // tests fail by panicking

    use burn::tensor::Distribution;

    use super::*;

    fn reference(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
        x.matmul(weight.transpose())
    }

    fn agree(a: Option<Tensor<2>>, b: Option<Tensor<2>>) {
        assert_eq!(a.is_some(), b.is_some());
        if let (Some(a), Some(b)) = (a, b) {
            assert_eq!(a.dims(), b.dims());
            let worst: f32 = (a - b).abs().max().into_scalar();
            assert!(worst < 1e-5, "{worst}");
        }
    }

    #[test]
    fn values_and_gradients_are_those_of_the_plain_operations() {
        let device = crate::device::device("cpu").unwrap().autodiff();
        let random =
            |shape: [usize; 2]| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        for (x_learns, weight_learns) in [(true, true), (true, false), (false, true)] {
            let x = random([7, 5]).set_require_grad(x_learns);
            let weight = random([6, 5]).set_require_grad(weight_learns);
            let scores = random([7, 6]);
            let [ours, theirs] = [true, false].map(|ours| {
                let out = if ours {
                    project(&x, &weight).unwrap()
                } else {
                    reference(x.clone(), weight.clone())
                };
                let mut found = (out.clone() * scores.clone()).sum().backward();
                let x = x.grad_remove(&mut found);
                (out.inner(), x, weight.grad_remove(&mut found))
            });
            agree(Some(ours.0), Some(theirs.0));
            agree(ours.1, theirs.1);
            agree(ours.2, theirs.2);
        }
    }

    #[test]
    fn a_turned_or_cut_factor_is_taken_as_it_looks() {
        let device = crate::device::device("cpu").unwrap().autodiff();
        let random =
            |shape: [usize; 2]| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let x = random([5, 9]).require_grad();
        let weight = random([8, 5]).require_grad();
        let (turned, cut) = (x.transpose(), weight.narrow(0, 2, 3));
        let ours = project(&turned, &cut).unwrap();
        agree(Some(ours.inner()), Some(reference(turned, cut).inner()));
    }

    #[test]
    fn elsewhere_it_steps_aside() {
        let device = crate::device::device("cpu").unwrap();
        let x = Tensor::<2>::zeros([2, 3], &device);
        assert!(project(&x, &x).is_none());
        let checkpointed = device.autodiff().gradient_checkpointing();
        let x = Tensor::<2>::zeros([2, 3], &checkpointed);
        assert!(project(&x, &x).is_none());
    }
}
