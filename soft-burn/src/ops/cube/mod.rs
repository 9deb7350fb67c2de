//! Kernels in CubeCL, the language of Burn's backends for CUDA, Vulkan, Metal and WebGPU, where
//! Burn composes several launches.
//!
//! Arithmetic is in f32 whatever the type of the tensors. Each function returns `None` for tensors
//! of other backends.

// A kernel takes its buffers one by one.
#![allow(clippy::too_many_arguments)]

mod adamw;
mod attention;
mod attention_backward;
mod decoder_block;
mod decoding_attention;
mod launches;
mod layers;
mod losses;
mod matvec;
mod ragged;
mod rms_norm;
mod scores;
mod tensor;
mod tile;

pub(crate) use adamw::sums_of_squares;
pub(crate) use decoder_block::{PlainBlock, decode_blocks, decodes};
pub(crate) use launches::{Launched, Launches};
pub(crate) use layers::{linear, matmul, seed, swiglu};
pub(crate) use losses::losses;
pub(crate) use ragged::Ragged;
pub(crate) use rms_norm::{add_and_normalize, rms_norm};
pub(crate) use scores::{SCORES, logits, scores};
pub(crate) use tensor::runs_on;
