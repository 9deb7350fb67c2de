//! A function of a backend's own tensors as one node of Burn's graph.
//!
//! Burn differentiates what is written in its tensor operations. A kernel of our own, or a call of
//! the library behind a backend, enters the graph here with the gradient that belongs to it.

use std::fmt::Debug;
use std::marker::PhantomData;

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DispatchKindConversion, DispatchTensor};
use burn::tensor::Tensor;

/// What a function keeps for its backward pass.
pub(super) trait Saved<B: Backend, const N: usize>: Clone + Debug + Send + 'static {
    /// The gradients with respect to the inputs, at least those that are `wanted`, from that of the
    /// output.
    fn gradients(self, gradient: FloatTensor<B>, wanted: [bool; N]) -> [Option<FloatTensor<B>>; N];
}

/// An input of a function: with Burn's autodiff, or without.
pub(super) enum Input<B: Backend> {
    Plain(FloatTensor<B>),
    Tracked(FloatTensor<Autodiff<B>>),
}

impl<B: Backend> Input<B>
where
    DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B>>,
{
    /// `None` for tensors of other backends and devices with gradient checkpointing.
    pub fn new<const D: usize>(tensor: &Tensor<D>) -> Option<Self> {
        let plain = tensor.clone().try_into_primitive::<B>();
        plain.map(Self::Plain).ok().or_else(|| {
            let tracked = tensor.clone().try_into_primitive::<Autodiff<B>>();
            tracked.map(Self::Tracked).ok()
        })
    }
}

/// The output of `run`, which is told which inputs learn, as a tensor. All inputs are with autodiff
/// or all are without.
pub(super) fn apply<B, S, const N: usize, const D: usize>(
    inputs: [Input<B>; N],
    run: impl FnOnce([FloatTensor<B>; N], [bool; N]) -> (FloatTensor<B>, S),
) -> Option<Tensor<D>>
where
    B: Backend,
    S: Saved<B, N>,
    DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B>>,
{
    let (mut plain, mut tracked) = (Vec::with_capacity(N), Vec::with_capacity(N));
    for input in inputs {
        match input {
            Input::Plain(tensor) => plain.push(tensor),
            Input::Tracked(tensor) => tracked.push(tensor),
        }
    }
    if let Ok(plain) = <[FloatTensor<B>; N]>::try_from(plain) {
        return Some(Tensor::from_primitive::<B>(run(plain, [false; N]).0));
    }
    let tracked = <[FloatTensor<Autodiff<B>>; N]>::try_from(tracked).ok()?;
    Some(Tensor::from_primitive::<Autodiff<B>>(record(tracked, run)))
}

fn record<B: Backend, S: Saved<B, N>, const N: usize>(
    inputs: [FloatTensor<Autodiff<B>>; N],
    run: impl FnOnce([FloatTensor<B>; N], [bool; N]) -> (FloatTensor<B>, S),
) -> FloatTensor<Autodiff<B>> {
    let learns = inputs.each_ref().map(|input| input.is_tracked());
    let primitives = inputs.each_ref().map(|input| input.primitive().clone());
    let nodes = inputs.map(|input| input.into_parts().1);
    let (out, saved) = run(primitives, learns);
    let prepared = Node(PhantomData).prepare::<NoCheckpointing>(nodes);
    match prepared.compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(saved, out),
        OpsKind::UnTracked(prepared) => prepared.finish(out),
    }
}

#[derive(Debug)]
struct Node<S>(PhantomData<S>);

impl<B: Backend, S: Saved<B, N>, const N: usize> Backward<B, N> for Node<S> {
    type State = S;

    fn backward(self, ops: Ops<S, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let wanted = ops.parents.each_ref().map(|parent| parent.is_some());
        let found = ops.state.gradients(gradient, wanted);
        for (parent, gradient) in ops.parents.into_iter().zip(found) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                gradients.register::<B>(parent.id, gradient);
            }
        }
    }
}
