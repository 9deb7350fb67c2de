//! The configuration of a LLaMA-shaped model, read from a Hugging Face config.json.
//!
//! The file itself is read in `config_file`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::model::architecture::Architecture;
use crate::model::refusal::Refusal;
use crate::model::rope::RopeScaling;

/// The configuration of a LLaMA. [`LlamaConfig::validate`] checks one that was not loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// Vocabulary size.
    pub vocab: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of the feed-forward layer.
    pub d_feed_forward: usize,
    /// Number of decoder blocks.
    pub n_layers: usize,
    /// Number of query heads.
    pub n_heads: usize,
    /// Number of key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of a head; even. Need not be `d_model / n_heads`.
    pub head_dim: usize,
    /// Added to the mean square in RMSNorm.
    pub norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Scaling of the rotary frequencies for long texts.
    pub rope_scaling: RopeScaling,
    /// Maximum number of positions.
    pub max_positions: usize,
    /// Whether the head shares the weight of the embedding.
    pub tied: bool,
    /// Standard deviation of initial weights.
    pub initializer_range: f64,
    /// What sets the model apart from LLaMA.
    pub architecture: Architecture,
    /// All keys of config.json as last read, including those above.
    pub other: Map<String, Value>,
}

/// Larger than in any model; the product of three such sizes fits in 64 bits.
const MAX_SIZE: usize = 1 << 20;

/// Longer than any model's context. Memory is not reserved per position.
const MAX_POSITIONS: usize = 1 << 32;

impl LlamaConfig {
    /// Checks that the configuration describes a model.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key; the path in it is "config.json".
    pub fn validate(&self) -> Result<(), Error> {
        self.check(&Refusal {
            path: Path::new("config.json"),
        })
    }

    pub(crate) fn check(&self, refuse: &Refusal) -> Result<(), Error> {
        let sizes = [
            ("vocab_size", self.vocab),
            ("hidden_size", self.d_model),
            ("intermediate_size", self.d_feed_forward),
            ("num_hidden_layers", self.n_layers),
            ("num_attention_heads", self.n_heads),
            ("num_key_value_heads", self.n_kv_heads),
            ("head_dim", self.head_dim),
        ];
        if !(1..=MAX_POSITIONS).contains(&self.max_positions) {
            let (key, found) = ("max_position_embeddings", self.max_positions);
            return Err(refuse.because(key, found, format!("1 to {MAX_POSITIONS}")));
        }
        for (key, size) in sizes {
            if !(1..=MAX_SIZE).contains(&size) {
                return Err(refuse.because(key, size, format!("1 to {MAX_SIZE}")));
            }
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            let expected = format!("a divisor of num_attention_heads, {}", self.n_heads);
            return Err(refuse.because("num_key_value_heads", self.n_kv_heads, expected));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(refuse.because(
                "head_dim",
                self.head_dim,
                "an even number, for rotary positions",
            ));
        }
        let positive = |key, value: f64| {
            let good = value.is_finite() && value > 0.0;
            if good {
                Ok(())
            } else {
                Err(refuse.because(key, value, "a positive number"))
            }
        };
        positive("rms_norm_eps", self.norm_eps)?;
        positive("rope_theta", self.rope_theta)?;
        positive("initializer_range", self.initializer_range)?;
        if let Some((key, found, expected)) = self.architecture.contradiction() {
            return Err(refuse.because(key, found, expected));
        }
        self.rope_scaling
            .check()
            .map_err(|problem| refuse.because(problem.key, problem.found, problem.expected))
    }
}

/// The ids of special tokens in config.json.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpecialTokens {
    /// Start of a text.
    pub bos_token_id: Option<u32>,
    /// End of a text.
    pub eos_token_id: Option<u32>,
    /// Padding of short rows.
    pub pad_token_id: Option<u32>,
}

impl SpecialTokens {
    /// The ids as keys of config.json, for [`LlamaConfig::other`].
    pub fn to_keys(&self) -> Map<String, Value> {
        let pairs = [
            ("bos_token_id", self.bos_token_id),
            ("eos_token_id", self.eos_token_id),
            ("pad_token_id", self.pad_token_id),
        ];
        pairs
            .into_iter()
            .map(|(key, id)| (key.to_owned(), id.into()))
            .collect()
    }
}
