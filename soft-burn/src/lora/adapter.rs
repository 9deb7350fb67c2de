//! An adapter as a value, and on disk as PEFT keeps it.
//!
//! Knows names, shapes and numbers; knows no tensor. Source: PEFT's `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use super::TARGETS;
use crate::Error;
use crate::folder::{new_folder, read_json, write_json};
use crate::weights::{NamedTensor, WeightFiles, WeightType, write_weights};

/// The low-rank factors of some weights, on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    pub(super) rank: usize,
    pub(super) alpha: f64,
    /// By the module whose weight is adapted.
    pub(super) factors: BTreeMap<String, Factors>,
}

/// A, `[rank, d_in]`, and B, `[d_out, rank]`, row by row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Factors {
    pub a: Vec<f32>,
    pub b: Vec<f32>,
}

/// PEFT's `adapter_config.json` as it is written here.
#[derive(Debug, Serialize)]
struct PeftConfig {
    peft_type: &'static str,
    task_type: &'static str,
    base_model_name_or_path: Option<String>,
    r: usize,
    lora_alpha: f64,
    target_modules: Vec<String>,
    layers_to_transform: Vec<usize>,
    bias: &'static str,
    inference_mode: bool,
}

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";
const A: &str = "lora_A.weight";
const B: &str = "lora_B.weight";

impl Adapter {
    /// Rank r.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Numbers that are trained.
    pub fn parameters(&self) -> usize {
        let count = |factors: &Factors| factors.a.len() + factors.b.len();
        self.factors.values().map(count).sum()
    }

    pub(super) fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// Writes a new folder that PEFT loads onto the model in `base`.
    ///
    /// # Errors
    /// [`Error::OutputExists`] when `folder` is there already; I/O errors.
    pub fn save(&self, folder: impl AsRef<Path>, base: Option<&Path>) -> Result<(), Error> {
        new_folder(folder.as_ref(), |partial| self.write_into(partial, base))
    }

    fn write_into(&self, folder: &Path, base: Option<&Path>) -> Result<(), Error> {
        let mut tensors = Vec::with_capacity(2 * self.factors.len());
        for (module, Factors { a, b }) in &self.factors {
            let tensor = |name: &str, values: &[f32], shape| NamedTensor {
                name: format!("{PREFIX}{module}.{name}"),
                shape,
                values: values.to_vec(),
            };
            tensors.push(tensor(A, a, vec![self.rank, a.len() / self.rank]));
            tensors.push(tensor(B, b, vec![b.len() / self.rank, self.rank]));
        }
        write_weights(&folder.join(WEIGHTS), &tensors, WeightType::F32)?;
        let base = base.map(|path| path.display().to_string());
        write_json(&folder.join(CONFIG), &self.peft_config(base))
    }

    fn peft_config(&self, base: Option<String>) -> PeftConfig {
        let parts = |module: &str| {
            let rest = module.strip_prefix("model.layers.")?;
            let (layer, part) = rest.split_once('.')?;
            let target = part.rsplit('.').next()?;
            Some((layer.parse::<usize>().ok()?, target.to_owned()))
        };
        let found = self
            .factors
            .keys()
            .filter_map(|module| parts(module.as_str()));
        let (mut layers, mut targets): (Vec<usize>, Vec<String>) = found.unzip();
        layers.sort_unstable();
        layers.dedup();
        targets.sort();
        targets.dedup();
        PeftConfig {
            peft_type: "LORA",
            task_type: "CAUSAL_LM",
            base_model_name_or_path: base,
            r: self.rank,
            lora_alpha: self.alpha,
            target_modules: targets,
            layers_to_transform: layers,
            bias: "none",
            inference_mode: true,
        }
    }

    /// Whether both adapt the same modules in the same way, whatever their numbers.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let shape = |adapter: &Self| (adapter.rank, adapter.alpha);
        shape(self) == shape(other) && self.factors.keys().eq(other.factors.keys())
    }

    /// Reads a folder that [`save`](Self::save) or PEFT wrote.
    ///
    /// # Errors
    /// When a file is missing or malformed, the adapter is of another kind than plain LoRA on the linear maps of the blocks, or a factor
    /// lacks its other half.
    pub fn load(folder: impl AsRef<Path>) -> Result<Self, Error> {
        let (rank, alpha) = read_config(&folder.as_ref().join(CONFIG))?;
        let path = folder.as_ref().join(WEIGHTS);
        let mut files = WeightFiles::open_file(&path)?;
        let mut factors = BTreeMap::new();
        for name in files.names() {
            let module = name.strip_prefix(PREFIX);
            let Some(module) = module.and_then(|name| name.strip_suffix(A)) else {
                continue;
            };
            let module = module.trim_end_matches('.');
            if !is_adaptable(module) {
                return Err(Error::UnexpectedTensor { path, name });
            }
            let width = |name: &str, at: usize| {
                let shape = files.shape(name).unwrap_or_default();
                shape.get(at).copied().unwrap_or(0)
            };
            let other = format!("{PREFIX}{module}.{B}");
            let (d_in, d_out) = (width(&name, 1), width(&other, 0));
            let a = files.take(&name, &[rank, d_in])?;
            let b = files.take(&other, &[d_out, rank])?;
            factors.insert(module.to_owned(), Factors { a, b });
        }
        files.finish()?;
        if factors.is_empty() {
            let reason = "it holds no factor of an adapter".to_owned();
            return Err(Error::Safetensors { path, reason });
        }
        Ok(Self {
            rank,
            alpha,
            factors,
        })
    }
}

/// Whether `model.layers.3.mlp.up_proj` and its like.
fn is_adaptable(module: &str) -> bool {
    let rest = module.strip_prefix("model.layers.");
    rest.and_then(|rest| rest.split_once('.'))
        .is_some_and(|(layer, part)| {
            layer.parse::<usize>().is_ok() && TARGETS.iter().any(|(_, known)| *known == part)
        })
}

/// Rank and α. Fields that say the adapter is computed in another way than plain LoRA are refused, all others passed over.
fn read_config(path: &Path) -> Result<(usize, f64), Error> {
    let config: Map<String, Value> = read_json(path)?;
    let refuse = |key, found: &Value, expected: &str| {
        Err(Error::Config {
            path: path.to_owned(),
            key,
            found: found.to_string(),
            expected: expected.to_owned(),
        })
    };
    let field = |key: &str| config.get(key).unwrap_or(&Value::Null);
    if field("peft_type") != "LORA" {
        return refuse("peft_type", field("peft_type"), "\"LORA\"");
    }
    for key in PLAIN_WITHOUT {
        let empty = match field(key) {
            Value::Null | Value::Bool(false) => true,
            Value::Object(entries) => entries.is_empty(),
            Value::Array(items) => items.is_empty(),
            _ => false,
        };
        if !empty {
            return refuse(key, field(key), "none: plain LoRA, one rank and one alpha");
        }
    }
    // Some ways to draw the first values change the base model's weights too.
    match field("init_lora_weights") {
        Value::Null | Value::Bool(_) => {}
        Value::String(way) if way == "gaussian" || way == "orthogonal" => {}
        other => {
            let expected = "true, false, gaussian or orthogonal, which leave the base as it is";
            return refuse("init_lora_weights", other, expected);
        }
    }
    match field("bias") {
        Value::Null => {}
        bias if bias == "none" => {}
        other => return refuse("bias", other, "\"none\""),
    }
    let rank = match field("r").as_u64() {
        Some(rank) if rank > 0 => rank as usize,
        _ => return refuse("r", field("r"), "a whole number, at least 1"),
    };
    match field("lora_alpha").as_f64() {
        Some(alpha) => Ok((rank, alpha)),
        None => refuse("lora_alpha", field("lora_alpha"), "a number"),
    }
}

/// Fields of PEFT's that are empty or false for plain LoRA.
const PLAIN_WITHOUT: [&str; 12] = [
    "use_rslora",
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "fan_in_fan_out",
    "lora_bias",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "layer_replication",
    "alora_invocation_tokens",
    "trainable_token_indices",
];
