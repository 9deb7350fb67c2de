//! Kernels for Burn's flex backend. Most serve decoding; `adamw`, `head_loss`, `projection`,
//! `softmax` and `swiglu` serve training.
//!
//! Decoding reads every weight for a few states, whereas Burn's matrix products are designed for
//! many. Here the blocks of a pass run on slices of `f32`, and the weights are read once and in
//! order. **Every decoding kernel is batch-invariant**: the result for a state does not depend, to
//! the bit, on the other states of the batch or on the number of threads. A token that is verified
//! together with others, or decoded in a batch, is therefore bit-equal to one decoded alone, and
//! exactness does not depend on rounding.
//!
//! The reference is the tensor code of `model` and `ops`, which other backends run; the laws are
//! tested with both. SIMD (pulp): AVX-512, AVX2, NEON or plain loops, chosen at run time.

mod adamw;
mod attention;
mod block;
mod decoder_block;
mod exp;
mod gemm;
mod head;
mod head_loss;
mod host;
mod linear;
mod norm;
mod projection;
mod softmax;
mod swiglu;

pub(crate) use adamw::sum_of_squares;
pub(crate) use decoder_block::{HostStore, append_states, decode_blocks};
pub(crate) use head::with_head;
pub(crate) use head_loss::{HeadRun, HostTeacher};
pub(crate) use host::{host, is_flex_f32, tensor};
pub(crate) use projection::project;
pub(crate) use softmax::causal_softmax;
pub(crate) use swiglu::swiglu;
