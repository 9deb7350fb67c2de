//! Kernels in CubeCL, the language of Burn's backends for CUDA, Vulkan, Metal and WebGPU, where
//! Burn composes several launches.
//!
//! Arithmetic is in f32 whatever the type of the tensors. Each function returns `None` for tensors
//! of other backends.

mod launches;
mod layers;
mod rms_norm;
mod tensor;

pub(crate) use launches::{Launched, Launches};
pub(crate) use layers::{linear, swiglu};
pub(crate) use rms_norm::rms_norm;
