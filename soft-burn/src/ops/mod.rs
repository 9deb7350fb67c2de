//! Operations with fast versions: each one in plain tensor operations, which every backend runs,
//! and the choice of a kernel where there is one. Kernels for the CPU are in [`flex`]. Imports
//! nothing of `model` or above.

pub(crate) mod adamw;
pub(crate) mod attention;
pub(crate) mod decoder_block;
#[cfg(feature = "flex")]
pub(crate) mod flex;
pub(crate) mod head;
pub(crate) mod head_loss;
pub(crate) mod kv_store;
pub(crate) mod linear;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod swiglu;
pub(crate) mod tensor_store;
