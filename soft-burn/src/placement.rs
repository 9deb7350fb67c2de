//! Where a model goes and in which numbers.

use burn::tensor::{DType, Device, FloatDType, Tensor};

use crate::precision::{check_supported, float_type};
use crate::weights::WeightType;
use crate::{Error, Llama};

/// A device, and the number type of the weights there: f32 from `&device`, any from `(&device, WeightType::Bf16)`.
///
/// States have the type of the weights; norms, rotary positions, softmax, losses and scores are computed in f32.
#[derive(Clone, Debug)]
pub struct Placement {
    /// Where.
    pub device: Device,
    /// In which numbers.
    pub weight_type: WeightType,
}

impl From<&Device> for Placement {
    fn from(device: &Device) -> Self {
        (device, WeightType::F32).into()
    }
}

impl From<(&Device, WeightType)> for Placement {
    fn from((device, weight_type): (&Device, WeightType)) -> Self {
        Self {
            device: device.clone(),
            weight_type,
        }
    }
}

impl Placement {
    /// Refuses a number type that the device does not compute with.
    pub(crate) fn check(&self) -> Result<(), Error> {
        check_supported(self.weight_type, &self.device)
    }

    /// The tensor there; cast on the device, where that is fast.
    pub(crate) fn put<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
        let data = burn::tensor::TensorData::new(values, shape);
        let tensor = Tensor::from_data(data, (&self.device, DType::F32));
        match self.weight_type {
            WeightType::F32 => tensor,
            reduced => tensor.cast(float_type(reduced)),
        }
    }
}

impl Llama {
    /// Where the model is, for parts that are added to it.
    pub(crate) fn placement(&self) -> Placement {
        Placement {
            device: self.device(),
            weight_type: self.weight_type(),
        }
    }

    /// Number type of the weights.
    pub fn weight_type(&self) -> WeightType {
        match FloatDType::from(self.model.norm.weight.val().dtype()) {
            FloatDType::BF16 => WeightType::Bf16,
            FloatDType::F16 => WeightType::F16,
            _ => WeightType::F32,
        }
    }
}
