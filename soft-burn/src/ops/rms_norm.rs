//! Root-mean-square norm (Zhang and Sennrich, arXiv 1910.07467).

use burn::tensor::Tensor;

use crate::dtype::{in_f32, to_f32};

/// x / √(mean x² + ε) · weight, for every row of `[rows, d_model]`; computed in f32.
pub(crate) fn rms_norm(x: Tensor<2>, weight: Tensor<1>, eps: f64) -> Tensor<2> {
    #[cfg(feature = "cube")]
    if let Some(out) = crate::ops::cube::rms_norm(&x, &weight, eps) {
        return out;
    }
    #[cfg(feature = "tch")]
    if let Some(out) = crate::ops::torch::rms_norm(&x, &weight, eps) {
        return out;
    }
    in_f32(x, |x| {
        let mean_square = x.clone().square().mean_dim(1);
        let scale = mean_square.add_scalar(eps).sqrt().recip();
        x * scale * to_f32(weight).unsqueeze()
    })
}

/// `x + added`, and its norm.
pub(crate) fn add_and_normalize(
    x: Tensor<2>,
    added: Tensor<2>,
    weight: Tensor<1>,
    eps: f64,
) -> (Tensor<2>, Tensor<2>) {
    #[cfg(feature = "cube")]
    if let Some(both) = crate::ops::cube::add_and_normalize(&x, &added, &weight, eps) {
        return both;
    }
    let sum = x + added;
    (sum.clone(), rms_norm(sum, weight, eps))
}
