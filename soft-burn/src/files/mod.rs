//! Folders and files: written whole or not at all, read within limits. Knows no model.

pub(crate) mod adapter_chain;
pub(crate) mod folder;
pub(crate) mod safetensors;
