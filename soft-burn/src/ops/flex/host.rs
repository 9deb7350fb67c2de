//! Conversion between tensors of the flex backend and slices.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{DType as TensorDType, Shape, Tensor, TensorData};

use crate::error::Error;

/// A contiguous f32 tensor of the flex backend.
pub(crate) struct HostTensor(FloatTensor<Flex>);

impl HostTensor {
    /// The values, row-major.
    pub fn values(&self) -> &[f32] {
        // `host` made the tensor contiguous and checked that it is f32.
        self.0.as_slice().unwrap_or(&[])
    }
}

fn is_flex<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.clone().try_into_primitive::<Flex>().is_ok()
}

/// The values of a tensor on the flex backend.
///
/// # Errors
/// When it is on another backend or does not hold f32.
pub(crate) fn host<const D: usize>(tensor: Tensor<D>) -> Result<HostTensor, Error> {
    let unreadable = |reason: String| Error::Read {
        name: "a tensor of the flex backend".to_owned(),
        reason,
    };
    let primitive = tensor
        .try_into_primitive::<Flex>()
        .map_err(|reason| unreadable(format!("{reason:?}")))?;
    let primitive = if primitive.is_contiguous() {
        primitive
    } else {
        primitive.to_contiguous()
    };
    match primitive.as_slice::<f32>() {
        Some(_) => Ok(HostTensor(primitive)),
        None => Err(unreadable(format!(
            "expected f32, found {:?}",
            primitive.dtype()
        ))),
    }
}

/// The tensor, contiguous and alone in its storage; copied if necessary.
pub(crate) fn flat(tensor: FloatTensor<Flex>) -> FloatTensor<Flex> {
    let length = tensor.shape().num_elements();
    let tensor = if tensor.is_contiguous() {
        tensor
    } else {
        tensor.to_contiguous()
    };
    if tensor.storage::<f32>().len() == length {
        return tensor;
    }
    let values = tensor.as_slice::<f32>().unwrap_or(&[]).to_vec();
    from_values(values, tensor.shape())
}

pub(crate) fn from_values(values: Vec<f32>, shape: impl Into<Shape>) -> FloatTensor<Flex> {
    FloatTensor::<Flex>::from_data(TensorData::new(values, shape))
}

/// The tensor as f32, contiguous, alone in its storage and writable; copied if necessary.
pub(crate) fn own<const D: usize>(tensor: Tensor<D>) -> FloatTensor<Flex> {
    let length = tensor.shape().num_elements();
    let whole = |primitive: &FloatTensor<Flex>| {
        let values = primitive.as_slice::<f32>();
        values.is_some_and(|_| primitive.storage::<f32>().len() == length)
    };
    match tensor.clone().try_into_primitive::<Flex>() {
        Ok(primitive) if whole(&primitive) => primitive,
        _ => FloatTensor::<Flex>::from_data(tensor.into_data().convert::<f32>()),
    }
}

/// Whether the tensor holds f32 on the flex backend, without autodiff.
pub(crate) fn is_flex_f32<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.dtype() == TensorDType::F32 && is_flex(tensor)
}

pub(crate) fn tensor<const D: usize, const E: usize>(
    values: Vec<f32>,
    shape: [usize; D],
    like: &Tensor<E>,
) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), &like.device())
}
