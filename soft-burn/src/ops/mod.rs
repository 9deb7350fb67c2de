//! What is computed fast: each operation once in plain tensor operations, which every backend runs, and the choice of a kernel where one
//! serves.

pub(crate) mod adamw;
pub(crate) mod attention;
#[cfg(feature = "flex")]
pub(crate) mod flex;
pub(crate) mod head_loss;
pub(crate) mod linear;
pub(crate) mod swiglu;
