//! Device and number type of a model.

use burn::tensor::{DType as TensorDType, Device, Tensor};

use crate::dtype::{DType, float_type};
use crate::error::Error;

/// A device, and the number type of the weights there: `&device` (f32) or `(&device, DType::Bf16)`.
///
/// States have the type of the weights; norms, rotary embeddings, softmax and losses are in f32.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The device.
    pub device: Device,
    /// The number type of the weights.
    pub dtype: DType,
}

impl From<&Device> for Placement {
    fn from(device: &Device) -> Self {
        (device, DType::F32).into()
    }
}

impl From<(&Device, DType)> for Placement {
    fn from((device, dtype): (&Device, DType)) -> Self {
        Self {
            device: device.clone(),
            dtype,
        }
    }
}

impl Placement {
    pub(crate) fn check(&self) -> Result<(), Error> {
        check_supported(self.dtype, &self.device)
    }

    /// A tensor on the device. The cast runs there, where it is fast.
    pub(crate) fn put<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
        let length = [values.len()];
        let data = burn::tensor::TensorData::new(values, length);
        let flat = Tensor::<1>::from_data(data, (&self.device, TensorDType::F32));
        let flat = match self.dtype {
            DType::F32 => flat,
            reduced => flat.cast(float_type(reduced)),
        };
        // Not a matrix from the start: on CUDA its rows would be padded, and copied for each use.
        flat.reshape(shape)
    }
}

/// Returns an error when `device` does not compute in the number type.
pub(crate) fn check_supported(dtype: DType, device: &Device) -> Result<(), Error> {
    if device.supports_dtype(float_type(dtype)) {
        Ok(())
    } else {
        Err(Error::NumberType {
            found: dtype,
            device: format!("{device:?}"),
            expected: supported(device),
        })
    }
}

fn supported(device: &Device) -> Vec<DType> {
    let all = DType::ALL.into_iter();
    all.filter(|&one| device.supports_dtype(float_type(one)))
        .collect()
}

impl std::str::FromStr for DType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let named = Self::ALL.into_iter().find(|one| one.name() == text);
        named.ok_or_else(|| Error::Setting {
            key: "number type",
            found: text.to_owned(),
            expected: "f32, bf16 or f16",
        })
    }
}
