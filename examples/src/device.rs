//! The device that a program computes on, from the command line.

use anyhow::Result;
use clap::Args;
use soft_burn::burn::tensor::Device;
use soft_burn::list_devices;

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

/// Whether the command line asks for the devices; they are then named. Looked for before the command line is read as a whole, since who asks
/// this names no model yet.
pub fn listed() -> bool {
    let asked = std::env::args().any(|argument| argument == "--list-devices");
    if asked {
        for name in list_devices() {
            println!("{name}");
        }
    }
    asked
}
