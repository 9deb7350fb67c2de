//! The configuration of a LLaMA, read from a Hugging Face config.json.
//!
//! Reads the formats of transformers 4 (`rope_theta` and `rope_scaling` at the top level) and
//! transformers 5 (`rope_parameters`, `dtype`). Absent keys have the defaults of transformers'
//! `LlamaConfig`. Keys that this library does not use are kept and written back.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use soft_core::decode::OperationCosts;

use crate::error::Error;
use crate::files::adapter_chain::weights_folder;
use crate::files::folder::read_text;
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
    /// All keys of config.json as last read, including those above.
    pub other: Map<String, Value>,
}

/// The content of config.json. Unknown keys are allowed, since other programs add them.
#[derive(Deserialize)]
struct ConfigFile {
    model_type: Option<String>,
    architectures: Option<Vec<String>>,
    #[serde(default = "defaults::vocab")]
    vocab_size: usize,
    #[serde(default = "defaults::hidden")]
    hidden_size: usize,
    #[serde(default = "defaults::intermediate")]
    intermediate_size: usize,
    #[serde(default = "defaults::n32")]
    num_hidden_layers: usize,
    #[serde(default = "defaults::n32")]
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    #[serde(default = "defaults::eps")]
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
    #[serde(default = "defaults::positions")]
    max_position_embeddings: usize,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default = "defaults::range")]
    initializer_range: f64,
    hidden_act: Option<String>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    quantization_config: Option<Value>,
}

/// Larger than in any model; the product of three such sizes fits in 64 bits.
const MAX_SIZE: usize = 1 << 20;

/// Longer than any model's context. Memory is not reserved per position.
const MAX_POSITIONS: usize = 1 << 32;

/// The defaults of transformers' `LlamaConfig`.
mod defaults {
    pub fn vocab() -> usize {
        32_000
    }
    pub fn hidden() -> usize {
        4096
    }
    pub fn intermediate() -> usize {
        11_008
    }
    pub fn n32() -> usize {
        32
    }
    pub fn eps() -> f64 {
        1e-6
    }
    pub fn positions() -> usize {
        2048
    }
    pub fn range() -> f64 {
        0.02
    }
    pub fn theta() -> f64 {
        10_000.0
    }
}

impl LlamaConfig {
    /// Reads `config.json` in `folder`, or in its base's folder if `folder` holds only an adapter.
    ///
    /// # Errors
    /// When the file is missing or malformed, or describes another architecture or an unsupported
    /// variant (biases, another activation, an unknown rope type, quantized weights).
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let path = weights_folder(folder)?.join("config.json");
        let text = read_text(&path)?;
        let other: Map<String, Value> = serde_json::from_str(&text).map_err(Error::json(&path))?;
        let file: ConfigFile = serde_json::from_str(&text).map_err(Error::json(&path))?;
        let refuse = Refusal { path: &path };
        file.check_supported(&refuse)?;
        let config = file.into_config(other, &refuse)?;
        config.check(&refuse)?;
        Ok(config)
    }

    /// Checks that the configuration describes a model.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key; the path in it is "config.json".
    pub fn validate(&self) -> Result<(), Error> {
        self.check(&Refusal {
            path: Path::new("config.json"),
        })
    }

    fn check(&self, refuse: &Refusal) -> Result<(), Error> {
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
        self.rope_scaling
            .check()
            .map_err(|problem| refuse.because(problem.key, problem.found, problem.expected))
    }

    /// The keys last read, updated, in the format of transformers 4, which 5 also reads.
    pub(crate) fn to_json(&self, dtype: &str) -> Value {
        let mut json = self.other.clone();
        json.remove("rope_parameters");
        json.remove("dtype");
        let mut set = |key: &str, value: Value| json.insert(key.to_owned(), value);
        set("architectures", serde_json::json!(["LlamaForCausalLM"]));
        set("model_type", "llama".into());
        set("vocab_size", self.vocab.into());
        set("hidden_size", self.d_model.into());
        set("intermediate_size", self.d_feed_forward.into());
        set("num_hidden_layers", self.n_layers.into());
        set("num_attention_heads", self.n_heads.into());
        set("num_key_value_heads", self.n_kv_heads.into());
        set("head_dim", self.head_dim.into());
        set("rms_norm_eps", self.norm_eps.into());
        set("rope_theta", self.rope_theta.into());
        set("rope_scaling", self.rope_scaling.to_json());
        set("max_position_embeddings", self.max_positions.into());
        set("tie_word_embeddings", self.tied.into());
        set("initializer_range", self.initializer_range.into());
        set("hidden_act", "silu".into());
        set("attention_bias", false.into());
        set("mlp_bias", false.into());
        set("torch_dtype", dtype.into());
        Value::Object(json)
    }

    /// Floating-point operations of matrix products in decoding, given the number of draft tokens.
    pub fn operation_costs(&self, draft_tokens: usize) -> OperationCosts {
        let attention = self.n_heads * self.head_dim;
        let heads = 2 * attention + 2 * self.n_kv_heads * self.head_dim;
        let block = self.d_model * (heads + 3 * self.d_feed_forward);
        let head = |tokens: usize| 2.0 * (tokens * self.d_model) as f64;
        OperationCosts {
            block: 2.0 * block as f64,
            appended: (4 * self.d_model * self.n_kv_heads * self.head_dim) as f64,
            attended: 4.0 * attention as f64,
            head: head(self.vocab),
            draft_head: head(draft_tokens),
        }
    }

    /// Number of parameters; a tied head is not counted.
    pub fn parameters(&self) -> usize {
        let heads = 2 * self.n_heads + 2 * self.n_kv_heads;
        let block = self.d_model * (heads * self.head_dim + 3 * self.d_feed_forward + 2);
        let embeddings = if self.tied { 1 } else { 2 } * self.vocab * self.d_model;
        embeddings + self.n_layers * block + self.d_model
    }
}

impl ConfigFile {
    fn check_supported(&self, refuse: &Refusal) -> Result<(), Error> {
        let llama = "LlamaForCausalLM";
        if let Some(found) = self.model_type.as_deref().filter(|found| *found != "llama") {
            return Err(refuse.because("model_type", found, "llama"));
        }
        let architectures = self.architectures.as_deref().unwrap_or_default();
        // `LlamaModel` is saved without a head, which a tied model does not need.
        let known = |name: &String| [llama, "LlamaModel"].contains(&name.as_str());
        if !architectures.is_empty() && !architectures.iter().any(known) {
            return Err(refuse.because("architectures", architectures.join(", "), llama));
        }
        if self.model_type.is_none() && architectures.is_empty() {
            return Err(refuse.because("model_type", "absent", "llama"));
        }
        if let Some(quantized) = &self.quantization_config {
            let method = quantized.get("quant_method").and_then(Value::as_str);
            let found = method.unwrap_or("of an unknown method");
            let expected = "none: quantised weights are not read; take the model they were made from, or save it dequantised";
            return Err(refuse.because("quantization_config", found, expected));
        }
        if let Some(found) = self.hidden_act.as_deref().filter(|found| *found != "silu") {
            return Err(refuse.because("hidden_act", found, "silu"));
        }
        for (key, bias) in [
            ("attention_bias", self.attention_bias),
            ("mlp_bias", self.mlp_bias),
        ] {
            if bias {
                return Err(refuse.because(key, "true", "false: LLaMA has no biases"));
            }
        }
        Ok(())
    }

    fn into_config(
        self,
        other: Map<String, Value>,
        refuse: &Refusal,
    ) -> Result<LlamaConfig, Error> {
        // transformers 5 stores theta in the rope parameters, transformers 4 at the top level.
        let rope = self.rope_parameters.or(self.rope_scaling);
        let rope_theta = match rope.as_ref().and_then(|rope| rope.get("rope_theta")) {
            Some(theta) => match theta.as_f64() {
                Some(theta) => Some(theta),
                None => return Err(refuse.because("rope_theta", theta, "a positive number")),
            },
            None => self.rope_theta,
        };
        let head_dim = match self.head_dim {
            Some(head_dim) => head_dim,
            None => self.hidden_size / self.num_attention_heads.max(1),
        };
        Ok(LlamaConfig {
            vocab: self.vocab_size,
            d_model: self.hidden_size,
            d_feed_forward: self.intermediate_size,
            n_layers: self.num_hidden_layers,
            n_heads: self.num_attention_heads,
            n_kv_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            head_dim,
            norm_eps: self.rms_norm_eps,
            rope_theta: rope_theta.unwrap_or_else(defaults::theta),
            rope_scaling: RopeScaling::from_json(rope.as_ref(), self.max_position_embeddings)
                .map_err(|problem| refuse.because(problem.key, problem.found, problem.expected))?,
            max_positions: self.max_position_embeddings,
            tied: self.tie_word_embeddings,
            initializer_range: self.initializer_range,
            other,
        })
    }
}

/// Creates config errors that name the file.
struct Refusal<'a> {
    path: &'a Path,
}

impl Refusal<'_> {
    fn because(
        &self,
        key: &'static str,
        found: impl ToString,
        expected: impl Into<String>,
    ) -> Error {
        Error::Config {
            path: self.path.to_owned(),
            key,
            found: found.to_string(),
            expected: expected.into(),
        }
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
