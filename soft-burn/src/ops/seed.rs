//! A scalar with a given gradient, to start a backward pass in the middle of a graph.

use burn::tensor::Tensor;

/// A scalar whose gradient with respect to `x` is `gradient`. Its value has no meaning.
pub(crate) fn seed(x: Tensor<2>, gradient: Tensor<2>) -> Tensor<1> {
    #[cfg(feature = "cube")]
    if let Some(seed) = crate::ops::cube::seed(&x, &gradient) {
        return seed;
    }
    (x * gradient).sum()
}
