//! A function of LibTorch tensors as one node of Burn's graph.
//!
//! Burn calls LibTorch without its autograd. Here the inputs become leaves of a small LibTorch
//! graph, which is held until Burn's backward pass reaches the node.

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;
use burn::tensor::Tensor;

use crate::ops::autograd::{self, Saved};

pub(super) type Input = autograd::Input<LibTorch>;

/// `compute` of the inputs, with gradients into those that Burn tracks. All inputs are with
/// autodiff or all are without.
pub(super) fn apply<const N: usize, const D: usize>(
    inputs: [Input; N],
    compute: impl FnOnce([&tch::Tensor; N]) -> tch::Tensor,
) -> Option<Tensor<D>> {
    autograd::apply(inputs, |inputs: [TchTensor; N], learns| {
        if !learns.contains(&true) {
            let out = compute(inputs.each_ref().map(|input| &input.tensor));
            return (TchTensor::new(out), None);
        }
        let mut learns = learns.into_iter();
        let leaves = inputs.each_ref().map(|input| {
            let leaf = input.tensor.detach();
            leaf.set_requires_grad(learns.next().unwrap_or(false))
        });
        let out = compute(leaves.each_ref());
        let value = TchTensor::new(out.detach());
        let graph = Graph {
            leaves: leaves.map(TchTensor::new),
            out: TchTensor::new(out),
            _in_use: inputs.into_iter().chain([value.clone()]).collect(),
        };
        (value, Some(graph))
    })
}

/// A LibTorch graph from leaves to an output.
#[derive(Clone, Debug)]
struct Graph<const N: usize> {
    leaves: [TchTensor; N],
    out: TchTensor,
    /// Burn's handles of the same memory: as long as they are held, Burn does not write to it.
    _in_use: Vec<TchTensor>,
}

/// `None` when no input learns.
impl<const N: usize> Saved<LibTorch, N> for Option<Graph<N>> {
    fn gradients(self, gradient: TchTensor, wanted: [bool; N]) -> [Option<TchTensor>; N] {
        let Some(Graph { leaves, out, .. }) = self else {
            return [(); N].map(|()| None);
        };
        // A scalar whose gradient into `out` is `gradient`: the bindings start from scalars only.
        let root = (&out.tensor * &gradient.tensor).sum(out.tensor.kind());
        let learning = leaves.iter().zip(wanted).filter(|(_, wanted)| *wanted);
        let learning: Vec<_> = learning.map(|(leaf, _)| &leaf.tensor).collect();
        let found = tch::Tensor::run_backward(&[root], &learning, false, false);
        let mut found = found.into_iter().map(TchTensor::new);
        wanted.map(|wanted| if wanted { found.next() } else { None })
    }
}
