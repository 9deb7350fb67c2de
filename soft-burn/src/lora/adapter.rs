//! An adapter as a value, and on disk as PEFT keeps it.
//!
//! Knows names, shapes and numbers; knows no tensor. Source: PEFT's `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

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

/// What of PEFT's `adapter_config.json` matters here; the rest is passed over.
#[derive(Debug, Serialize, Deserialize)]
struct PeftConfig {
    peft_type: String,
    task_type: Option<String>,
    base_model_name_or_path: Option<String>,
    r: usize,
    lora_alpha: f64,
    target_modules: Vec<String>,
    layers_to_transform: Option<Vec<usize>>,
    #[serde(default)]
    bias: Option<String>,
    #[serde(default)]
    lora_dropout: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    inference_mode: bool,
    #[serde(default)]
    rank_pattern: BTreeMap<String, usize>,
    #[serde(default)]
    alpha_pattern: BTreeMap<String, f64>,
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
            peft_type: "LORA".to_owned(),
            task_type: Some("CAUSAL_LM".to_owned()),
            base_model_name_or_path: base,
            r: self.rank,
            lora_alpha: self.alpha,
            target_modules: targets,
            layers_to_transform: Some(layers),
            bias: Some("none".to_owned()),
            lora_dropout: 0.0,
            use_rslora: false,
            use_dora: false,
            fan_in_fan_out: false,
            inference_mode: true,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
        }
    }

    /// Reads a folder that [`save`](Self::save) or PEFT wrote.
    ///
    /// # Errors
    /// When a file is missing or malformed, the adapter is of another kind than plain LoRA, or a factor lacks its other half.
    pub fn load(folder: impl AsRef<Path>) -> Result<Self, Error> {
        let path = folder.as_ref().join(CONFIG);
        let config: PeftConfig = read_json(&path)?;
        let refuse = |key, found: String, expected: &str| {
            Err(Error::Config {
                path: path.clone(),
                key,
                found,
                expected: expected.to_owned(),
            })
        };
        if config.peft_type != "LORA" {
            return refuse("peft_type", config.peft_type, "LORA");
        }
        if config.r == 0 {
            return refuse("r", "0".to_owned(), "at least 1");
        }
        let patterns = [
            ("rank_pattern", !config.rank_pattern.is_empty()),
            ("alpha_pattern", !config.alpha_pattern.is_empty()),
        ];
        if let Some((key, _)) = patterns.iter().find(|(_, some)| *some) {
            return refuse(
                key,
                "not empty".to_owned(),
                "one rank and one alpha for all modules",
            );
        }
        for (key, on) in [
            ("use_rslora", config.use_rslora),
            ("use_dora", config.use_dora),
            ("fan_in_fan_out", config.fan_in_fan_out),
        ] {
            if on {
                return refuse(key, "true".to_owned(), "false");
            }
        }
        let mut files = WeightFiles::open_file(&folder.as_ref().join(WEIGHTS))?;
        let mut factors = BTreeMap::new();
        for name in files.names() {
            let Some(module) = name
                .strip_prefix(PREFIX)
                .and_then(|name| name.strip_suffix(A))
            else {
                continue;
            };
            let width = |shape: Option<&[usize]>, at: usize| shape.map_or(0, |shape| shape[at]);
            let other = format!("{PREFIX}{module}{B}");
            let (d_in, d_out) = (width(files.shape(&name), 1), width(files.shape(&other), 0));
            let a = files.take(&name, &[config.r, d_in])?;
            let b = files.take(&other, &[d_out, config.r])?;
            let module = module.trim_end_matches('.').to_owned();
            factors.insert(module, Factors { a, b });
        }
        files.finish()?;
        Ok(Self {
            rank: config.r,
            alpha: config.lora_alpha,
            factors,
        })
    }
}
