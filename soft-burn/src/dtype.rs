//! Number types: weights may be bf16, what is sensitive to rounding is computed in f32.
//!
//! Norms, rotary positions, softmax, losses and the optimizer's state stay f32, as in transformers
//! and torch's mixed precision.

use burn::tensor::{DType as TensorDType, FloatDType, Tensor};
use serde::{Deserialize, Serialize};

/// The number type in which weights are kept or written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// 32 bits: what training starts from.
    #[default]
    F32,
    /// The upper half of those.
    Bf16,
    /// 16 bits with more digits and a smaller range (65,504): to compute with, not to train.
    F16,
}

impl DType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

    /// The name in settings and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// The name in config.json.
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

/// `compute` of `x` in f32, given back in the type of `x`.
pub(crate) fn in_f32<const D: usize>(
    x: Tensor<D>,
    compute: impl FnOnce(Tensor<D>) -> Tensor<D>,
) -> Tensor<D> {
    match x.dtype() {
        TensorDType::F32 => compute(x),
        other => compute(x.cast(FloatDType::F32)).cast(FloatDType::from(other)),
    }
}

/// `x` as f32.
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
