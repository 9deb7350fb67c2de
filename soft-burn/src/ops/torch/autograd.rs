//! LibTorch's autograd inside Burn's: a function of LibTorch tensors as one node of Burn's graph.
//!
//! Burn calls LibTorch without its autograd. Here the inputs become leaves of a small LibTorch
//! graph, which is held until Burn's backward pass reaches the node.

use burn::backend::LibTorch;
use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::libtorch::TchTensor;
use burn::backend::tensor::FloatTensor;
use burn::tensor::Tensor;

/// An input of a function on LibTorch: with Burn's autodiff, or without.
pub(super) enum Input {
    Plain(TchTensor),
    Tracked(FloatTensor<Autodiff<LibTorch>>),
}

impl Input {
    /// `None` for tensors of other backends and devices with gradient checkpointing.
    pub fn new<const D: usize>(tensor: &Tensor<D>) -> Option<Self> {
        let plain = tensor.clone().try_into_primitive::<LibTorch>();
        plain.map(Self::Plain).ok().or_else(|| {
            let tracked = tensor.clone().try_into_primitive::<Autodiff<LibTorch>>();
            tracked.map(Self::Tracked).ok()
        })
    }
}

/// `compute` of the inputs, with gradients into those that Burn tracks. All inputs are with
/// autodiff or all are without.
pub(super) fn apply<const N: usize, const D: usize>(
    inputs: [Input; N],
    compute: impl FnOnce([&tch::Tensor; N]) -> tch::Tensor,
) -> Option<Tensor<D>> {
    let mut plain = Vec::with_capacity(N);
    let mut tracked = Vec::with_capacity(N);
    for input in inputs {
        match input {
            Input::Plain(tensor) => plain.push(tensor),
            Input::Tracked(tensor) => tracked.push(tensor),
        }
    }
    if let Ok(plain) = <[TchTensor; N]>::try_from(plain) {
        let out = compute(plain.each_ref().map(|input| &input.tensor));
        return Some(Tensor::from_primitive::<LibTorch>(TchTensor::new(out)));
    }
    let tracked = <[FloatTensor<Autodiff<LibTorch>>; N]>::try_from(tracked).ok()?;
    Some(Tensor::from_primitive::<Autodiff<LibTorch>>(record(
        tracked, compute,
    )))
}

fn record<const N: usize>(
    inputs: [FloatTensor<Autodiff<LibTorch>>; N],
    compute: impl FnOnce([&tch::Tensor; N]) -> tch::Tensor,
) -> FloatTensor<Autodiff<LibTorch>> {
    let learns = inputs.each_ref().map(|input| input.is_tracked());
    let mut tensors = Vec::with_capacity(N);
    let nodes = inputs.map(|input| {
        let (tensor, node) = input.into_parts();
        tensors.push(tensor);
        node
    });
    let mut index = 0;
    let leaves = [(); N].map(|()| {
        let leaf = tensors[index].tensor.detach();
        let leaf = leaf.set_requires_grad(learns[index]);
        index += 1;
        leaf
    });
    let out = compute(leaves.each_ref());
    let value = TchTensor::new(out.detach());
    let prepared = Node.prepare::<NoCheckpointing>(nodes);
    match prepared.compute_bound().stateful() {
        OpsKind::Tracked(prepared) => {
            let graph = Graph {
                leaves: leaves.map(TchTensor::new),
                out: TchTensor::new(out),
                _in_use: tensors.into_iter().chain([value.clone()]).collect(),
            };
            prepared.finish(graph, value)
        }
        OpsKind::UnTracked(prepared) => prepared.finish(value),
    }
}

#[derive(Debug)]
struct Node;

/// A LibTorch graph from leaves to an output.
#[derive(Clone, Debug)]
struct Graph<const N: usize> {
    leaves: [TchTensor; N],
    out: TchTensor,
    /// Burn's handles of the same memory: as long as they are held, Burn does not write to it.
    _in_use: Vec<TchTensor>,
}

impl<const N: usize> Backward<LibTorch, N> for Node {
    type State = Graph<N>;

    fn backward(
        self,
        ops: Ops<Graph<N>, N>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let gradient = gradients.consume::<LibTorch>(&ops.node);
        let Graph { leaves, out, .. } = ops.state;
        // A scalar whose gradient into `out` is `gradient`: the bindings start from scalars only.
        let root = (&out.tensor * &gradient.tensor).sum(out.tensor.kind());
        let parents = leaves.iter().zip(ops.parents);
        let learning: Vec<_> = parents
            .filter_map(|(leaf, parent)| Some((&leaf.tensor, parent?)))
            .collect();
        let leaves: Vec<_> = learning.iter().map(|(leaf, _)| *leaf).collect();
        let found = tch::Tensor::run_backward(&[root], &leaves, false, false);
        for ((_, parent), gradient) in learning.into_iter().zip(found) {
            gradients.register::<LibTorch>(parent.id, TchTensor::new(gradient));
        }
    }
}
