//! The device that a program computes on, and in which numbers, from the command line.

use crate::statusln;
use anyhow::Result;
use clap::Args;
use soft_burn::burn::tensor::Device;
use soft_burn::{DType, Placement};

/// Which device.
#[derive(Args, Debug, Clone)]
pub struct DeviceArgs {
    /// Device: cpu, ndarray, torch-cpu; wgpu, vulkan, metal, cuda, torch-cuda, also numbered as in
    /// cuda:1; or ws://host:port, as compiled in; `soft devices` prints those found here
    #[arg(long, default_value = "cpu")]
    pub device: String,
}

impl DeviceArgs {
    /// The device.
    pub fn open(&self) -> Result<Device> {
        Ok(soft_burn::device(&self.device)?)
    }
}

/// Which device, and in which numbers a model computes there.
#[derive(Args, Debug, Clone)]
pub struct PlaceArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// Number type of weights and states: f32, bf16 or f16, as the device has them; on cpu bf16 is
    /// computed in f32, which is faster there
    #[arg(long, default_value = "f32")]
    dtype: DType,
}

impl PlaceArgs {
    /// The device with the number type.
    pub fn open(&self) -> Result<Placement> {
        if self.computed() != self.dtype {
            statusln!(
                "note: {} is computed in f32 on cpu, where it is many times faster",
                self.dtype
            );
        }
        Ok((&self.device.open()?, self.computed()).into())
    }

    /// The number type that is computed in. The CPU's matrix products have no fast bf16, and f32
    /// holds all of its numbers.
    fn computed(&self) -> DType {
        match (self.device.device.as_str(), self.dtype) {
            ("cpu" | "flex", DType::Bf16) => DType::F32,
            (_, dtype) => dtype,
        }
    }

    /// What results say of it: `cpu`, or `cuda, bf16`.
    pub fn name(&self) -> String {
        let device = &self.device.device;
        match self.computed() {
            DType::F32 => device.clone(),
            reduced => format!("{device}, {reduced}"),
        }
    }
}
