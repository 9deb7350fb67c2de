//! What sets the members of the LLaMA family apart: biases, norms of queries and keys, windows.
//!
//! Source: transformers' `modeling_llama`, `modeling_mistral`, `modeling_qwen2` and
//! `modeling_qwen3`, which share everything else.

use serde::{Deserialize, Serialize};

/// A family of models, as `model_type` in config.json.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelType {
    /// `LlamaForCausalLM`: biases on request.
    #[default]
    Llama,
    /// `MistralForCausalLM`: a sliding window in every block, or none.
    Mistral,
    /// `Qwen2ForCausalLM`: biases on queries, keys and values; a window in the deeper blocks, or
    /// none.
    Qwen2,
    /// `Qwen3ForCausalLM`: RMSNorm on the queries and keys of each head; a window as in Qwen2.
    Qwen3,
}

/// `model_type` of a LLaMA in Balcony's published form, with exits in its own file.
pub(crate) const NESTED_LLAMA: &str = "nested_llama";

impl ModelType {
    /// All families.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// `model_type` in config.json.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The prefix of the class names in `architectures`.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Llama => "Llama",
            Self::Mistral => "Mistral",
            Self::Qwen2 => "Qwen2",
            Self::Qwen3 => "Qwen3",
        }
    }
}

/// The layers of a block beyond those that all families have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Architecture {
    /// The family, which determines the form of config.json.
    pub model_type: ModelType,
    /// Biases on queries, keys and values.
    pub qkv_bias: bool,
    /// A bias on the output of attention.
    pub output_bias: bool,
    /// Biases in the feed-forward layer.
    pub mlp_bias: bool,
    /// RMSNorm on the queries and keys of each head, before the rotation.
    pub qk_norm: bool,
    /// The window of attention, if any.
    pub window: Option<SlidingWindow>,
}

/// A window of attention: a position attends to itself and the `size - 1` before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlidingWindow {
    /// Positions a position attends to.
    pub size: usize,
    /// The first block with the window; all deeper ones have it.
    pub first_block: usize,
}

impl Architecture {
    /// The window of a block, if it has one.
    pub(crate) fn window_of(&self, block: usize) -> Option<usize> {
        let window = self.window.filter(|window| block >= window.first_block)?;
        Some(window.size)
    }
}
