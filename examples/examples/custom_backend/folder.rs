//! Reads a Hugging Face folder of a LLaMA: configuration, and weights as f32 on the CPU.

use std::collections::{BTreeSet, HashMap};
use std::f32::consts::TAU;
use std::path::Path;

use anyhow::{Result, anyhow, ensure};
use candle_core::{DType, Device, Tensor, Var, safetensors};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// The keys of config.json that the computation needs.
#[derive(Deserialize)]
pub struct Config {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    pub rms_norm_eps: f64,
    pub max_position_embeddings: usize,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    rope_theta: Option<f64>,
    /// The name since transformers 5; before, it was `rope_scaling`, without theta.
    #[serde(alias = "rope_scaling")]
    rope_parameters: Option<Rope>,
}

#[derive(Deserialize)]
struct Rope {
    rope_theta: Option<f64>,
    #[serde(flatten)]
    scaling: Scaling,
}

/// Scaling of the frequencies for long contexts. serde refuses other values of `rope_type`.
#[derive(Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
enum Scaling {
    Default,
    Llama3 {
        factor: f32,
        low_freq_factor: f32,
        high_freq_factor: f32,
        original_max_position_embeddings: f32,
    },
}

pub struct Folder {
    pub config: Config,
    pub tensors: HashMap<String, Tensor>,
}

impl Folder {
    pub fn read(folder: &Path) -> Result<Self> {
        let json: Value = read_json(&folder.join("config.json"))?;
        check(&json, folder)?;
        let config: Config = read_json(&folder.join("config.json"))?;
        ensure!(
            config.n_kv_heads() > 0
                && config
                    .num_attention_heads
                    .is_multiple_of(config.n_kv_heads())
                && config.head_dim().is_multiple_of(2),
            "{}: expected an even head_dim and num_key_value_heads that divide num_attention_heads",
            folder.display()
        );
        let mut tensors = HashMap::new();
        for file in weight_files(folder)? {
            let path = folder.join(file);
            let read = safetensors::load(&path, &Device::Cpu);
            for (name, tensor) in read.map_err(|error| anyhow!("{}: {error}", path.display()))? {
                tensors.insert(name, tensor.to_dtype(DType::F32)?);
            }
        }
        Ok(Self { config, tensors })
    }

    /// Turns every tensor into a variable, so that a model made of them afterwards can be trained.
    pub fn variables(&mut self) -> Result<Vec<Var>> {
        let variable = |tensor: &mut Tensor| {
            let variable = Var::from_tensor(tensor)?;
            *tensor = variable.as_tensor().clone();
            Ok(variable)
        };
        self.tensors.values_mut().map(variable).collect()
    }
}

impl Config {
    pub fn n_kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    pub fn head_dim(&self) -> usize {
        self.head_dim
            .unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Angular frequencies of the pairs of a head, in radians per position.
    pub fn frequencies(&self) -> Vec<f32> {
        let rope = self.rope_parameters.as_ref();
        let theta = rope.and_then(|rope| rope.rope_theta).or(self.rope_theta);
        let theta = theta.unwrap_or(10_000.0) as f32;
        let dim = self.head_dim();
        let plain = (0..dim / 2).map(|pair| 1.0 / theta.powf((2 * pair) as f32 / dim as f32));
        let scale = |frequency| rope.map_or(frequency, |rope| rope.scaling.scale(frequency));
        plain.map(scale).collect()
    }
}

impl Scaling {
    fn scale(&self, frequency: f32) -> f32 {
        match self {
            Self::Default => frequency,
            Self::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: context,
            } => {
                // Low frequencies are divided by `factor`, high ones kept, and those between
                // interpolated.
                let waves = context * frequency / TAU;
                let kept = ((waves - low) / (high - low)).clamp(0.0, 1.0);
                frequency * (kept + (1.0 - kept) / factor)
            }
        }
    }
}

/// Refuses models that this example does not support.
fn check(json: &Value, folder: &Path) -> Result<()> {
    for (key, expected) in [
        ("model_type", json!("llama")),
        ("hidden_act", json!("silu")),
        ("attention_bias", json!(false)),
        ("mlp_bias", json!(false)),
    ] {
        let found = json.get(key).unwrap_or(&expected);
        let folder = folder.display();
        ensure!(
            *found == expected,
            "{folder}: {key} is {found}: only {expected} is supported"
        );
    }
    for file in [
        "exit_heads.safetensors",
        "exit_blocks.safetensors",
        "adapter",
    ] {
        let path = folder.join(file);
        ensure!(!path.exists(), "{} is not supported", path.display());
    }
    Ok(())
}

/// The files in the index, or `model.safetensors` without an index.
fn weight_files(folder: &Path) -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let index = folder.join("model.safetensors.index.json");
    if !index.exists() {
        return Ok(["model.safetensors".to_owned()].into());
    }
    let index: Index = read_json(&index)?;
    Ok(index.weight_map.into_values().collect())
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let refuse = |error: &dyn std::error::Error| anyhow!("{}: {error}", path.display());
    let text = std::fs::read(path).map_err(|error| refuse(&error))?;
    serde_json::from_slice(&text).map_err(|error| refuse(&error))
}
