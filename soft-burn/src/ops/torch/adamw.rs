//! AdamW in place: eight launches a parameter, and no copies of the arrays it moves.

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;
use burn::tensor::{DType as TensorDType, Tensor};

use crate::ops::adamw::step::{AdamWStep, Moving};

/// Whether the tensor holds f32 on LibTorch, without autodiff.
pub(crate) fn is_torch_f32(tensor: &Tensor<1>) -> bool {
    tensor.dtype() == TensorDType::F32 && tensor.clone().try_into_primitive::<LibTorch>().is_ok()
}

/// The tensor with memory of its own: copied if it is shared or on another backend.
fn own(tensor: Tensor<1>) -> tch::Tensor {
    match tensor.clone().try_into_primitive::<LibTorch>() {
        Ok(shared) => {
            drop(tensor);
            if shared.can_mut() {
                shared.tensor
            } else {
                shared.tensor.copy()
            }
        }
        Err(_) => {
            let values: Vec<f32> = tensor.into_data().iter().collect();
            tch::Tensor::from_slice(&values)
        }
    }
}

impl AdamWStep {
    /// Updates a parameter in f32 on LibTorch; memory that is not shared is overwritten.
    pub(crate) fn by_torch(&self, gradient: Tensor<1>, moving: Moving) -> Moving {
        let mut gradient = own(gradient);
        let [mut value, mut first, mut second] =
            [moving.value, moving.first, moving.second].map(own);
        let (beta1, beta2) = (f64::from(self.beta1), f64::from(self.beta2));
        let time = self.time as f64;
        let (bias1, bias2) = (1.0 - beta1.powf(time), 1.0 - beta2.powf(time));

        if self.scale != 1.0 {
            let _ = gradient.g_mul_scalar_(self.scale);
        }
        let _ = first.lerp_(&gradient, 1.0 - beta1);
        let _ = second.lerp_(&gradient.square(), 1.0 - beta2);
        if self.decay != 0.0 {
            let _ = value.g_mul_scalar_(1.0 - self.rate * f64::from(self.decay));
        }
        // A rate of 0, as at the start of a warm-up, moves nothing.
        if self.rate != 0.0 {
            // value − rate / bias1 · first / (√(second / bias2) + ε), the factors in the divisor.
            let factor = -bias1 / self.rate;
            let mut divisor = second.sqrt();
            let _ = divisor.g_mul_scalar_(factor / bias2.sqrt());
            let _ = divisor.g_add_scalar_(factor * f64::from(self.eps));
            let _ = value.addcdiv_(&first, &divisor);
        }
        let tensor = |tensor| Tensor::from_primitive::<LibTorch>(TchTensor::new(tensor));
        Moving {
            value: tensor(value),
            first: tensor(first),
            second: tensor(second),
        }
    }
}
