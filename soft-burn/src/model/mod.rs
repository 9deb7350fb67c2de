//! LLaMA and its components.

pub(crate) mod architecture;
pub(crate) mod attention;
pub(crate) mod balcony;
pub(crate) mod block;
pub(crate) mod config;
pub(crate) mod config_file;
pub(crate) mod exit_blocks;
pub(crate) mod exit_heads;
pub(crate) mod extract;
pub(crate) mod head;
pub(crate) mod init;
pub(crate) mod layers;
pub(crate) mod llama;
pub(crate) mod parameters;
pub(crate) mod placement;
pub(crate) mod refusal;
pub(crate) mod rope;
mod rope_keys;
mod size;
pub(crate) mod yarn;
