//! The traits `NestedModel` and `DecodeModel` for LLaMA.

pub(crate) mod decode_model;
mod nested_model;
mod packed;
