//! Reading and writing model folders.

pub(crate) mod decoding_defaults;
pub(crate) mod draft_tokens;
pub(crate) mod exit_probes;
pub(crate) mod nested_llama;
pub(crate) mod pretrained;
