//! A linear layer without bias.

use burn::tensor::Tensor;

/// `x · weightᵀ`: `[rows, d_in]` and `[d_out, d_in]` to `[rows, d_out]`.
pub(crate) fn project(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let out = product(x, weight);
    #[cfg(test)]
    let out = damage::applied(out);
    out
}

/// `a · b` of matrices without autodiff.
pub(crate) fn matmul(a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    #[cfg(feature = "cube")]
    if let Some(out) = crate::ops::cube::matmul(&a, &b) {
        return out;
    }
    a.matmul(b)
}

fn product(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    #[cfg(feature = "flex")]
    if let Some(out) = crate::ops::flex::project(&x, &weight) {
        return out;
    }
    #[cfg(feature = "cube")]
    if let Some(out) = crate::ops::cube::linear(&x, &weight) {
        return out;
    }
    #[cfg(feature = "tch")]
    if let Some(out) = crate::ops::torch::linear(&x, &weight) {
        return out;
    }
    x.matmul(weight.transpose())
}

/// A wrong kernel, for tests of what detects one.
#[cfg(test)]
pub(crate) mod damage {
    use std::cell::Cell;

    use burn::tensor::Tensor;

    thread_local! {
        static LEFT: Cell<usize> = const { Cell::new(0) };
    }

    /// Makes the next `count` products of this thread wrong.
    pub fn damage_next_products(count: usize) {
        LEFT.set(count);
    }

    pub(super) fn applied(out: Tensor<2>) -> Tensor<2> {
        match LEFT.get() {
            0 => out,
            left => {
                LEFT.set(left - 1);
                out.mul_scalar(-3.0)
            }
        }
    }
}
