//! Operations, each in tensor operations, which every backend runs, and with a kernel where there
//! is one. CPU kernels are in `flex`, those in CubeCL in `cube`, PyTorch's in `torch`. Independent
//! of `model` and the modules above it.

pub(crate) mod adamw;
pub(crate) mod attention;
#[cfg(any(feature = "cube", feature = "tch"))]
mod autograd;
pub(crate) mod compilation;
#[cfg(feature = "cube")]
pub(crate) mod cube;
pub(crate) mod decoder_block;
#[cfg(feature = "flex")]
pub(crate) mod flex;
pub(crate) mod head;
pub(crate) mod head_loss;
pub(crate) mod kv_store;
pub(crate) mod linear;
pub(crate) mod packed_attention;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod seed;
pub(crate) mod swiglu;
pub(crate) mod tensor_store;
#[cfg(feature = "tch")]
pub(crate) mod torch;
pub(crate) mod transfers;

#[cfg(all(test, feature = "flex", any(feature = "cube", feature = "tch")))]
mod tests;
