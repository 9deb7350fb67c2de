//! Device and dtype of a model, from the command line.

use anyhow::Result;
use clap::Args;
use soft_burn::burn::tensor::Device;
use soft_burn::{DType, Placement};

use crate::statusln;

/// The device.
#[derive(Args, Debug, Clone)]
pub struct DeviceArgs {
    /// Device: cpu, ndarray, torch-cpu; wgpu, vulkan, metal, cuda, torch-cuda, also numbered, as in
    /// cuda:1; or ws://host:port; each if it is compiled in (`soft devices` lists those found)
    #[arg(long, default_value = "cpu", help_heading = "Device")]
    pub device: String,
}

impl DeviceArgs {
    /// The device.
    pub fn open(&self) -> Result<Device> {
        Ok(soft_burn::device(&self.device)?)
    }
}

/// The device and the dtype of weights and hidden states.
#[derive(Args, Debug, Clone)]
pub struct PlaceArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// Dtype of weights and hidden states: f32, bf16 or f16, if the device supports it; on cpu,
    /// bf16 is computed in f32, which is faster there
    #[arg(long, default_value = "f32", help_heading = "Device")]
    dtype: DType,
}

impl PlaceArgs {
    /// The device and the dtype.
    pub fn open(&self) -> Result<Placement> {
        if self.computed() != self.dtype {
            statusln!(
                "note: {} is computed in f32 on cpu, where it is many times faster",
                self.dtype
            );
        }
        Ok((&self.device.open()?, self.computed()).into())
    }

    /// The dtype of the computation. On the CPU, matrix products in bf16 are slow, and f32
    /// represents every bf16 number.
    fn computed(&self) -> DType {
        match (self.device.device.as_str(), self.dtype) {
            ("cpu" | "flex", DType::Bf16) => DType::F32,
            (_, dtype) => dtype,
        }
    }

    /// Device and dtype in results: `cpu`, or `cuda, bf16`.
    pub fn name(&self) -> String {
        let device = &self.device.device;
        match self.computed() {
            DType::F32 => device.clone(),
            reduced => format!("{device}, {reduced}"),
        }
    }
}
