//! Number types: weights may be bf16, what is sensitive to rounding is computed in f32.
//!
//! Norms, rotary positions, softmax, losses and the optimiser's state stay f32, as in transformers and torch's mixed precision.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, FloatDType, Tensor};

use crate::weights::WeightType;
use crate::{Error, Llama};

/// `compute` of `x` in f32, given back in the type of `x`.
pub(crate) fn in_f32<const D: usize>(
    x: Tensor<D>,
    compute: impl FnOnce(Tensor<D>) -> Tensor<D>,
) -> Tensor<D> {
    match x.dtype() {
        DType::F32 => compute(x),
        other => compute(x.cast(FloatDType::F32)).cast(FloatDType::from(other)),
    }
}

/// `x` as f32.
pub(crate) fn to_f32<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match x.dtype() {
        DType::F32 => x,
        _ => x.cast(FloatDType::F32),
    }
}

/// Refuses a number type that `device` does not compute with.
pub(crate) fn check_supported(weight_type: WeightType, device: &Device) -> Result<(), Error> {
    match device.supports_dtype(float_type(weight_type)) {
        true => Ok(()),
        false => Err(Error::NumberType {
            found: weight_type,
            device: format!("{device:?}"),
            expected: supported(device),
        }),
    }
}

/// The number types that `device` computes with.
fn supported(device: &Device) -> Vec<WeightType> {
    let all = WeightType::ALL.into_iter();
    all.filter(|&one| device.supports_dtype(float_type(one)))
        .collect()
}

pub(crate) fn float_type(weight_type: WeightType) -> FloatDType {
    match weight_type {
        WeightType::F32 => FloatDType::F32,
        WeightType::Bf16 => FloatDType::BF16,
        WeightType::F16 => FloatDType::F16,
    }
}

impl Llama {
    /// The model with weights of this type, without autodiff.
    pub(crate) fn with_weights(self, weight_type: WeightType) -> Self {
        if self.weight_type() == weight_type {
            return self;
        }
        struct Cast(FloatDType);
        impl ModuleMapper for Cast {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                param.map(|value| value.cast(self.0))
            }
        }
        self.map(&mut Cast(float_type(weight_type)))
    }
}
