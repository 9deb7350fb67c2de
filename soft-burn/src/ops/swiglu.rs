//! The product of a SwiGLU feed-forward (Shazeer, arXiv 2002.05202).

use burn::tensor::{Tensor, activation};

/// `silu(gate) · up`.
pub(crate) fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    #[cfg(feature = "flex")]
    if let Some(out) = crate::ops::flex::swiglu(&gate, &up) {
        return out;
    }
    #[cfg(feature = "cube")]
    if let Some(out) = crate::ops::cube::swiglu(&gate, &up) {
        return out;
    }
    #[cfg(feature = "tch")]
    if let Some(out) = crate::ops::torch::swiglu(&gate, &up) {
        return out;
    }
    activation::silu(gate) * up
}
