//! Linear maps, SwiGLU, and the start of a backward pass.

use burn::tensor::{DType, Tensor};
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{Cube, cubecl};
use cubecl::prelude::*;

use super::tensor::{
    Kept, apply, downcast, empty, empty_like, in_memory, input, memory, product, storage, tensor,
    transposed, units,
};

/// `ops::linear::project`; the gradient of the weight comes in the weight's own layout.
pub(crate) fn linear(x: &Tensor<2>, weight: &Tensor<2>) -> Option<Tensor<2>> {
    apply([input(x)?, input(weight)?], |[x, weight], learns| {
        let out = product(x.clone(), transposed(weight.clone()));
        let kept = Linear {
            x: learns[1].then_some(x),
            weight: learns[0].then_some(weight),
        };
        (out, kept)
    })
}

/// `ops::linear::matmul`.
pub(crate) fn matmul(a: &Tensor<2>, b: &Tensor<2>) -> Option<Tensor<2>> {
    let [a, b] = [a, b].map(|matrix| matrix.clone().try_into_primitive::<Cube>().ok());
    in_memory().then(|| Some(tensor(product(downcast(a?), downcast(b?)))))?
}

/// `ops::seed::seed`, without the product and its sum.
pub(crate) fn seed(x: &Tensor<2>, gradient: &Tensor<2>) -> Option<Tensor<1>> {
    let gradient = memory(gradient)?;
    apply([input(x)?], |[x], _| {
        (empty([1], DType::F32, &x), Seed(gradient))
    })
}

#[derive(Clone, Debug)]
struct Seed(CubeTensor);

impl Kept<1> for Seed {
    fn gradients(self, _one: CubeTensor, _wanted: [bool; 1]) -> [Option<CubeTensor>; 1] {
        [Some(self.0)]
    }
}

#[derive(Clone, Debug)]
struct Linear {
    /// If the weight learns.
    x: Option<CubeTensor>,
    /// If the states do.
    weight: Option<CubeTensor>,
}

impl Kept<2> for Linear {
    fn gradients(self, gradient: CubeTensor, wanted: [bool; 2]) -> [Option<CubeTensor>; 2] {
        let of_weight = self.x.filter(|_| wanted[1]);
        let of_weight = of_weight.map(|x| product(transposed(gradient.clone()), x));
        let of_x = self.weight.filter(|_| wanted[0]);
        [of_x.map(|weight| product(gradient, weight)), of_weight]
    }
}

/// `ops::swiglu::swiglu`.
pub(crate) fn swiglu(gate: &Tensor<2>, up: &Tensor<2>) -> Option<Tensor<2>> {
    apply([input(gate)?, input(up)?], |[gate, up], _| {
        let out = empty_like(&gate);
        let (count, dim) = units(out.meta.num_elements());
        gated::launch(
            &gate.client,
            count,
            dim,
            gate.clone().into_buffer_arg(),
            up.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            storage(&gate),
        );
        (out, Gated { gate, up })
    })
}

#[derive(Clone, Debug)]
struct Gated {
    gate: CubeTensor,
    up: CubeTensor,
}

impl Kept<2> for Gated {
    fn gradients(self, gradient: CubeTensor, _wanted: [bool; 2]) -> [Option<CubeTensor>; 2] {
        let Self { gate, up } = self;
        let (of_gate, of_up) = (empty_like(&gate), empty_like(&up));
        let (count, dim) = units(gate.meta.num_elements());
        gradients_of_gated::launch(
            &gate.client,
            count,
            dim,
            gate.clone().into_buffer_arg(),
            up.into_buffer_arg(),
            gradient.into_buffer_arg(),
            of_gate.clone().into_buffer_arg(),
            of_up.clone().into_buffer_arg(),
            storage(&gate),
        );
        [Some(of_gate), Some(of_up)]
    }
}

#[cube(launch)]
fn gated<F: Float>(gate: &[F], up: &[F], out: &mut [F], #[define(F)] _f: ElemType) {
    if ABSOLUTE_POS >= out.len() {
        terminate!();
    }
    let gate = f32::cast_from(gate[ABSOLUTE_POS]);
    let silu = gate / (1.0f32 + (-gate).exp());
    out[ABSOLUTE_POS] = F::cast_from(silu * f32::cast_from(up[ABSOLUTE_POS]));
}

/// With σ the logistic function: silu′(x) = σ(x) · (1 + x · (1 − σ(x))).
#[cube(launch)]
fn gradients_of_gated<F: Float>(
    gate: &[F],
    up: &[F],
    gradient: &[F],
    of_gate: &mut [F],
    of_up: &mut [F],
    #[define(F)] _f: ElemType,
) {
    if ABSOLUTE_POS >= gradient.len() {
        terminate!();
    }
    let gradient = f32::cast_from(gradient[ABSOLUTE_POS]);
    let gate = f32::cast_from(gate[ABSOLUTE_POS]);
    let up = f32::cast_from(up[ABSOLUTE_POS]);
    let logistic = 1.0f32 / (1.0f32 + (-gate).exp());
    let slope = logistic * (1.0f32 + gate * (1.0f32 - logistic));
    of_gate[ABSOLUTE_POS] = F::cast_from(gradient * up * slope);
    of_up[ABSOLUTE_POS] = F::cast_from(gradient * gate * logistic);
}
