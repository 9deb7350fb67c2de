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
    /// A setting that config.json of the family cannot express: its key, what was found and what is
    /// expected.
    pub(crate) fn contradiction(&self) -> Option<(&'static str, String, String)> {
        use ModelType::{Llama, Mistral, Qwen2, Qwen3};
        let family = self.model_type;
        let found = |has: bool| String::from(if has { "present" } else { "absent" });
        let expected = |what: &str| format!("{what}, in a model of type {}", family.as_str());
        let biases = [self.qkv_bias, self.output_bias];
        let wrong_biases = match family {
            Llama | Qwen3 => self.qkv_bias != self.output_bias,
            Mistral => biases != [false, false],
            Qwen2 => biases != [true, false],
        };
        let windows = match (family, self.window) {
            (_, None) => None,
            (Llama, Some(_)) => Some("none"),
            (Mistral, Some(window)) if window.first_block > 0 => Some("one in every block"),
            (_, Some(window)) if window.size == 0 => Some("at least 1 position, or none"),
            _ => None,
        };
        if wrong_biases {
            let biases = biases.map(found).join(" on q, k and v, ");
            let which = match family {
                Llama | Qwen3 => "biases on q, k, v and the output, or none",
                Mistral => "none",
                Qwen2 => "biases on q, k and v only",
            };
            let found = format!("{biases} on the output");
            return Some(("attention_bias", found, expected(which)));
        }
        if self.mlp_bias && family != Llama {
            return Some(("mlp_bias", found(true), expected("none")));
        }
        if self.qk_norm != (family == Qwen3) {
            let which = if self.qk_norm { "none" } else { "norms" };
            return Some((
                "norms of queries and keys",
                found(self.qk_norm),
                expected(which),
            ));
        }
        windows.map(|which| {
            (
                "sliding_window",
                format!("{:?}", self.window),
                expected(which),
            )
        })
    }

    /// The window of a block, if it has one.
    pub(crate) fn window_of(&self, block: usize) -> Option<usize> {
        let window = self.window.filter(|window| block >= window.first_block)?;
        Some(window.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_family_cannot_express_is_named() {
        let window = |first_block| {
            let size = 4;
            Some(SlidingWindow { size, first_block })
        };
        let llama = Architecture::default();
        let of = |model_type| Architecture {
            model_type,
            ..llama
        };
        let qwen2 = Architecture {
            qkv_bias: true,
            ..of(ModelType::Qwen2)
        };
        let qwen3 = Architecture {
            qk_norm: true,
            ..of(ModelType::Qwen3)
        };
        for fine in [
            llama,
            Architecture {
                window: window(0),
                ..of(ModelType::Mistral)
            },
            Architecture {
                window: window(2),
                ..qwen2
            },
            qwen3,
        ] {
            assert_eq!(fine.contradiction(), None, "{fine:?}");
        }
        for (wrong, key) in [
            (
                Architecture {
                    window: window(0),
                    ..llama
                },
                "sliding_window",
            ),
            (
                Architecture {
                    qkv_bias: true,
                    ..llama
                },
                "attention_bias",
            ),
            (
                Architecture {
                    window: window(1),
                    ..of(ModelType::Mistral)
                },
                "sliding_window",
            ),
            (of(ModelType::Qwen2), "attention_bias"),
            (of(ModelType::Qwen3), "norms"),
            (
                Architecture {
                    mlp_bias: true,
                    ..qwen2
                },
                "mlp_bias",
            ),
        ] {
            let (found, ..) = wrong.contradiction().unwrap();
            assert!(found.contains(key), "{wrong:?}: {found}");
        }
    }
}
