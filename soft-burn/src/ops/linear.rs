//! A linear layer without bias.

use burn::tensor::Tensor;

/// `x · weightᵀ`: `[rows, d_in]` and `[d_out, d_in]` to `[rows, d_out]`.
pub(crate) fn project(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    #[cfg(feature = "flex")]
    if let Some(out) = crate::ops::flex::project(&x, &weight) {
        return out;
    }
    x.matmul(weight.transpose())
}
