//! Number types. Weights may be bf16 or f16; operations sensitive to rounding run in f32.
//!
//! Norms, rotary embeddings, softmax, losses and optimizer state stay f32, as in mixed precision.

use burn::tensor::{DType as TensorDType, FloatDType, Tensor};
use serde::{Deserialize, Serialize};

/// The number type in which weights are kept or written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// Single precision, 32 bits; the default.
    #[default]
    F32,
    /// bfloat16, the upper half of an f32.
    Bf16,
    /// Half precision: more digits than bf16, smaller range (65,504). For inference, not training.
    F16,
}

impl DType {
    /// All variants.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

    /// The name in settings and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    pub(crate) fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Applies `compute` to `x` in f32 and casts the result back to the type of `x`.
pub(crate) fn in_f32<const D: usize>(
    x: Tensor<D>,
    compute: impl FnOnce(Tensor<D>) -> Tensor<D>,
) -> Tensor<D> {
    match x.dtype() {
        TensorDType::F32 => compute(x),
        other => compute(x.cast(FloatDType::F32)).cast(FloatDType::from(other)),
    }
}

pub(crate) fn to_f32<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match x.dtype() {
        TensorDType::F32 => x,
        _ => x.cast(FloatDType::F32),
    }
}

pub(crate) fn float_type(dtype: DType) -> FloatDType {
    match dtype {
        DType::F32 => FloatDType::F32,
        DType::Bf16 => FloatDType::BF16,
        DType::F16 => FloatDType::F16,
    }
}
