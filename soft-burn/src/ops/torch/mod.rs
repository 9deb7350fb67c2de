//! Fast versions for Burn's LibTorch backend: PyTorch's own kernels where Burn composes several
//! operations, such as fused attention that holds no score matrix.
//!
//! In training, gradients come from LibTorch's autograd, one subgraph per operation, each a node of
//! Burn's graph ([`autograd`]). Each function returns `None` for tensors of other backends.

// Upstream prefers CubeCL; LibTorch is the backend that compiles no kernels.
#![allow(deprecated)]

mod adamw;
mod attention;
mod autograd;
mod layers;

pub(crate) use adamw::is_torch_f32;
pub(crate) use attention::{Seen, attention};
pub(crate) use layers::{linear, rms_norm, rotate, swiglu};
