//! Linear maps, RMSNorm, rotary positions and SwiGLU.

use burn::tensor::Tensor;

use super::autograd::{Input, apply};

/// `ops::linear::project`; the gradient of the weight comes in the weight's own layout.
pub(crate) fn linear(x: &Tensor<2>, weight: &Tensor<2>) -> Option<Tensor<2>> {
    apply([Input::new(x)?, Input::new(weight)?], |[x, weight]| {
        x.linear(weight, None::<tch::Tensor>)
    })
}

/// `ops::rms_norm::rms_norm`.
pub(crate) fn rms_norm(x: &Tensor<2>, weight: &Tensor<1>, eps: f64) -> Option<Tensor<2>> {
    apply([Input::new(x)?, Input::new(weight)?], |[x, weight]| {
        x.rms_norm(weight.size(), Some(weight), eps)
    })
}

/// `ops::swiglu::swiglu`.
pub(crate) fn swiglu(gate: &Tensor<2>, up: &Tensor<2>) -> Option<Tensor<2>> {
    apply([Input::new(gate)?, Input::new(up)?], |[gate, up]| {
        gate.silu() * up
    })
}

/// `x · cos + rotate_half(x) · sin`, for `x` `[rows, heads, seq, head_dim]` and `cos`, `sin`
/// `[rows or 1, 1, seq, head_dim / 2]`.
pub(crate) fn rotate(x: &Tensor<4>, cos: &Tensor<4>, sin: &Tensor<4>) -> Option<Tensor<4>> {
    let inputs = [Input::new(x)?, Input::new(cos)?, Input::new(sin)?];
    apply(inputs, |[x, cos, sin]| {
        let halves = x.to_kind(tch::Kind::Float).chunk(2, -1);
        let (first, second) = (&halves[0], &halves[1]);
        let first_out = first * cos - second * sin;
        let second_out = second * cos + first * sin;
        tch::Tensor::cat(&[first_out, second_out], -1).to_kind(x.kind())
    })
}
