//! The file config.json: reading the forms of each family, and writing them.
//!
//! Reads the formats of transformers 4 (`rope_theta` and `rope_scaling` at the top level) and
//! transformers 5 (`rope_parameters`, `dtype`). Absent keys have the defaults of the family's class
//! in transformers. Keys that this library does not use are kept and written back.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::files::adapter_chain::weights_folder;
use crate::files::folder::read_text;
use crate::model::architecture::{Architecture, ModelType, NESTED_LLAMA, SlidingWindow};
use crate::model::config::LlamaConfig;
use crate::model::refusal::Refusal;
use crate::model::rope::RopeScaling;

/// The content of config.json. Unknown keys are allowed, since other programs add them.
#[derive(Deserialize)]
struct ConfigFile {
    model_type: Option<String>,
    architectures: Option<Vec<String>>,
    vocab_size: Option<usize>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
    original_max_position_embeddings: Option<usize>,
    partial_rotary_factor: Option<f64>,
    max_position_embeddings: Option<usize>,
    #[serde(default)]
    tie_word_embeddings: bool,
    initializer_range: Option<f64>,
    hidden_act: Option<String>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    sliding_window: Option<usize>,
    #[serde(default)]
    use_sliding_window: bool,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    quantization_config: Option<Value>,
}

/// Values of absent keys.
struct Defaults {
    vocab: usize,
    d_feed_forward: usize,
    n_kv_heads: Option<usize>,
    head_dim: Option<usize>,
    max_positions: usize,
}

impl ModelType {
    /// The defaults of the family's class in transformers.
    fn defaults(self) -> Defaults {
        let [vocab, d_feed_forward, max_positions] = match self {
            Self::Llama => [32_000, 11_008, 2048],
            Self::Mistral => [32_000, 14_336, 131_072],
            Self::Qwen2 | Self::Qwen3 => [151_936, 22_016, 32_768],
        };
        Defaults {
            vocab,
            d_feed_forward,
            max_positions,
            n_kv_heads: match self {
                Self::Llama => None,
                Self::Mistral => Some(8),
                Self::Qwen2 | Self::Qwen3 => Some(32),
            },
            head_dim: (self == Self::Qwen3).then_some(128),
        }
    }
}

/// Reads config.json at `path`.
fn read_config(path: &Path) -> Result<LlamaConfig, Error> {
    let text = read_text(path)?;
    let other: Map<String, Value> = serde_json::from_str(&text).map_err(Error::json(path))?;
    let file: ConfigFile = serde_json::from_str(&text).map_err(Error::json(path))?;
    let refuse = Refusal { path };
    let model_type = file.model_type(&refuse)?;
    file.check_supported(&refuse)?;
    file.into_config(model_type, other, &refuse)
}

impl ConfigFile {
    fn model_type(&self, refuse: &Refusal) -> Result<ModelType, Error> {
        let supported = || {
            let names = ModelType::ALL.map(ModelType::as_str);
            format!("one of {}", names.join(", "))
        };
        let architectures = self.architectures.as_deref().unwrap_or_default();
        // `LlamaModel` is saved without a head, which a tied model does not need.
        let is_of = |family: &ModelType, name: &str| {
            let kind = name.strip_prefix(family.class());
            kind.is_some_and(|kind| ["ForCausalLM", "Model"].contains(&kind))
        };
        let named = |name: &str| match name {
            NESTED_LLAMA => Some(ModelType::Llama),
            _ => ModelType::ALL.into_iter().find(|it| it.as_str() == name),
        };
        let family = match self.model_type.as_deref() {
            Some(name) => {
                named(name).ok_or_else(|| refuse.because("model_type", name, supported()))
            }
            None => {
                let of_class =
                    |family: &ModelType| architectures.iter().any(|it| is_of(family, it));
                let found = ModelType::ALL.into_iter().find(of_class);
                found.ok_or_else(|| match architectures {
                    [] => refuse.because("model_type", "absent", supported()),
                    _ => self.wrong_class(refuse, &supported()),
                })
            }
        }?;
        let nested = self.model_type.as_deref() == Some(NESTED_LLAMA);
        if nested
            || architectures.is_empty()
            || architectures.iter().any(|name| is_of(&family, name))
        {
            Ok(family)
        } else {
            Err(self.wrong_class(refuse, &format!("{}ForCausalLM", family.class())))
        }
    }

    fn wrong_class(&self, refuse: &Refusal, expected: &str) -> Error {
        let found = self.architectures.as_deref().unwrap_or_default().join(", ");
        refuse.because("architectures", found, expected)
    }

    fn check_supported(&self, refuse: &Refusal) -> Result<(), Error> {
        if let Some(quantized) = &self.quantization_config {
            let method = quantized.get("quant_method").and_then(Value::as_str);
            let found = method.unwrap_or("of an unknown method");
            let expected = "none: quantised weights are not read; take the model they were made from, or save it dequantised";
            return Err(refuse.because("quantization_config", found, expected));
        }
        if let Some(found) = self.hidden_act.as_deref().filter(|found| *found != "silu") {
            return Err(refuse.because("hidden_act", found, "silu"));
        }
        if let Some(found) = self.partial_rotary_factor.filter(|found| *found != 1.0) {
            let expected = "1: heads are rotated as a whole";
            return Err(refuse.because("partial_rotary_factor", found, expected));
        }
        Ok(())
    }

    fn into_config(
        self,
        model_type: ModelType,
        other: Map<String, Value>,
        refuse: &Refusal,
    ) -> Result<LlamaConfig, Error> {
        let defaults = model_type.defaults();
        let n_layers = self.num_hidden_layers.unwrap_or(32);
        let window = self.window(model_type, n_layers, &other, refuse)?;
        let own_biases = matches!(model_type, ModelType::Llama | ModelType::Qwen3);
        let attention_bias = self.attention_bias && own_biases;
        let architecture = Architecture {
            model_type,
            qkv_bias: attention_bias || model_type == ModelType::Qwen2,
            output_bias: attention_bias,
            mlp_bias: self.mlp_bias && model_type == ModelType::Llama,
            qk_norm: model_type == ModelType::Qwen3,
            window,
        };
        let max_positions = self
            .max_position_embeddings
            .unwrap_or(defaults.max_positions);
        let d_model = self.hidden_size.unwrap_or(4096);
        let n_heads = self.num_attention_heads.unwrap_or(32);
        // A null is as many as query heads in every family.
        let default_kv_heads = match other.contains_key("num_key_value_heads") {
            true => None,
            false => defaults.n_kv_heads,
        };
        let (rope_theta, rope_scaling) = self.rope(max_positions, refuse)?;
        Ok(LlamaConfig {
            vocab: self.vocab_size.unwrap_or(defaults.vocab),
            d_model,
            d_feed_forward: self.intermediate_size.unwrap_or(defaults.d_feed_forward),
            n_layers,
            n_heads,
            n_kv_heads: self
                .num_key_value_heads
                .or(default_kv_heads)
                .unwrap_or(n_heads),
            head_dim: self
                .head_dim
                .or(defaults.head_dim)
                .unwrap_or(d_model / n_heads.max(1)),
            norm_eps: self.rms_norm_eps.unwrap_or(1e-6),
            rope_theta,
            rope_scaling,
            max_positions,
            tied: self.tie_word_embeddings,
            initializer_range: self.initializer_range.unwrap_or(0.02),
            architecture,
            other,
        })
    }

    /// Base and scaling of the rotary frequencies. transformers 5 stores both in the rope
    /// parameters, transformers 4 the base at the top level.
    fn rope(&self, max_positions: usize, refuse: &Refusal) -> Result<(f64, RopeScaling), Error> {
        let given =
            |rope: &&Value| !rope.is_null() && rope.as_object().is_none_or(|it| !it.is_empty());
        let scaling = self.rope_scaling.as_ref().filter(given);
        let rope = scaling.or(self.rope_parameters.as_ref());
        let theta = match rope.and_then(|rope| rope.get("rope_theta")) {
            Some(theta) => match theta.as_f64() {
                Some(theta) => Some(theta),
                None => return Err(refuse.because("rope_theta", theta, "a positive number")),
            },
            None => self.rope_theta,
        };
        let mut rope = rope.cloned();
        // At the top level it takes precedence, as in transformers.
        let original = self.original_max_position_embeddings;
        if let (Some(Value::Object(rope)), Some(original)) = (&mut rope, original) {
            rope.insert(
                "original_max_position_embeddings".to_owned(),
                original.into(),
            );
        }
        let scaling = RopeScaling::from_json(rope.as_ref(), max_positions)
            .map_err(|problem| refuse.because(problem.key, problem.found, problem.expected))?;
        Ok((theta.unwrap_or(10_000.0), scaling))
    }

    /// The window of attention. `layer_types` must name the blocks that the other keys name.
    fn window(
        &self,
        model_type: ModelType,
        n_layers: usize,
        other: &Map<String, Value>,
        refuse: &Refusal,
    ) -> Result<Option<SlidingWindow>, Error> {
        // A null is no window; an absent key is the class's default.
        let size = match other.contains_key("sliding_window") {
            true => self.sliding_window,
            false => Some(4096),
        };
        let window = match model_type {
            ModelType::Llama => None,
            ModelType::Mistral => size.map(|size| (size, 0)),
            ModelType::Qwen2 | ModelType::Qwen3 => size
                .filter(|_| self.use_sliding_window)
                .map(|size| (size, self.max_window_layers.unwrap_or(28))),
        };
        let window = window.map(|(size, first_block)| SlidingWindow { size, first_block });
        let kinds = self.layer_types.as_deref().unwrap_or_default();
        if self.layer_types.is_some() && kinds.len() != n_layers {
            let found = format!("{} types", kinds.len());
            return Err(refuse.because("layer_types", found, format!("{n_layers}, one per block")));
        }
        for (block, kind) in kinds.iter().enumerate() {
            let here = window.filter(|window| block >= window.first_block);
            let expected = layer_type(here.map(|window| window.size));
            if kind != expected {
                let found = format!("{kind} for block {block}");
                let expected = format!("{expected}, as the other keys say");
                return Err(refuse.because("layer_types", found, expected));
            }
        }
        Ok(window.filter(|window| window.first_block < n_layers))
    }
}

fn layer_type(window: Option<usize>) -> &'static str {
    match window {
        Some(_) => "sliding_attention",
        None => "full_attention",
    }
}

impl LlamaConfig {
    /// Reads `config.json` in `folder`, or in its base's folder if `folder` holds only an adapter.
    ///
    /// # Errors
    /// When the file is missing or malformed, or describes another architecture or an unsupported
    /// variant (another activation, an unknown rope type, quantized weights).
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let path = weights_folder(folder)?.join("config.json");
        let config = read_config(&path)?;
        config.check(&Refusal { path: &path })?;
        Ok(config)
    }

    /// The keys last read, updated, in the format of transformers 4, which 5 also reads.
    pub(crate) fn to_json(&self, dtype: &str) -> Map<String, Value> {
        let mut json = self.other.clone();
        json.remove("rope_parameters");
        json.remove("dtype");
        let Architecture { model_type, .. } = self.architecture;
        let mut set = |key: &str, value: Value| json.insert(key.to_owned(), value);
        set(
            "architectures",
            json!([format!("{}ForCausalLM", model_type.class())]),
        );
        set("model_type", model_type.as_str().into());
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
        set("torch_dtype", dtype.into());
        self.set_architecture(&mut json);
        json
    }

    /// Sets the keys that only some families have.
    fn set_architecture(&self, json: &mut Map<String, Value>) {
        let Architecture {
            model_type,
            output_bias,
            mlp_bias,
            window,
            ..
        } = self.architecture;
        let mut set = |key: &str, value: Value| json.insert(key.to_owned(), value);
        let size = window.map(|window| window.size);
        match model_type {
            ModelType::Llama => {
                set("attention_bias", output_bias.into());
                set("mlp_bias", mlp_bias.into());
            }
            ModelType::Mistral => {
                set("sliding_window", size.into());
            }
            ModelType::Qwen2 | ModelType::Qwen3 => {
                if model_type == ModelType::Qwen3 {
                    set("attention_bias", output_bias.into());
                }
                set("use_sliding_window", window.is_some().into());
                if let Some(SlidingWindow { size, first_block }) = window {
                    set("sliding_window", size.into());
                    set("max_window_layers", first_block.into());
                }
            }
        }
        if json.contains_key("layer_types") {
            let window_of = |block| self.architecture.window_of(block);
            let kinds = (0..self.n_layers).map(|block| layer_type(window_of(block)));
            json.insert("layer_types".to_owned(), kinds.collect());
        }
    }
}
