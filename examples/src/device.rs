//! The device that a program computes on, and in which numbers, from the command line.

use crate::outln;
use anyhow::Result;
use clap::Args;
use soft_burn::burn::tensor::Device;
use soft_burn::{Placement, WeightType, list_devices};

/// Which device.
#[derive(Args, Debug, Clone)]
pub struct DeviceArgs {
    /// Device: cpu, ndarray, wgpu, vulkan, metal, cuda, the last four also numbered as in cuda:1, or ws://host:port, as compiled in
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Name the devices that this build finds here, and nothing else
    #[arg(long)]
    list_devices: bool,
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
    /// Number type of weights and states: f32, bf16 or f16, as the device has them
    #[arg(long, default_value = "f32")]
    dtype: WeightType,
}

impl PlaceArgs {
    /// The device with the number type.
    pub fn open(&self) -> Result<Placement> {
        Ok((&self.device.open()?, self.dtype).into())
    }

    /// What results say of it: `cpu`, or `cuda, bf16`.
    pub fn name(&self) -> String {
        let device = &self.device.device;
        match self.dtype {
            WeightType::F32 => device.clone(),
            reduced => format!("{device}, {reduced}"),
        }
    }
}

/// Whether the command line asks for the devices; they are then named. Looked for before the command line is read as a whole, since who asks
/// this names no model yet.
pub fn listed() -> bool {
    let asked = std::env::args_os().any(|argument| argument == "--list-devices");
    if asked {
        for name in list_devices() {
            outln!("{name}");
        }
    }
    asked
}
