//! An adapter in host memory, and its PEFT format on disk.
//!
//! Holds names, shapes and values; independent of tensors. Source: PEFT's `adapter_config.json` and
//! `adapter_model.safetensors`; Kalajdzievski, *A rank stabilization scaling factor* (arXiv
//! 2312.03732).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use super::factors::{Factors, WholeWeight};
use super::peft::{
    A, B, EMBEDDING, EMBEDDING_A, EMBEDDING_B, LoadedConfig, PREFIX, Part, is_adaptable, last_part,
    module_of, transposed,
};
use crate::dtype::DType;
use crate::error::Error;
use crate::files::folder::{new_folder, write_json};
use crate::files::safetensors::{NamedTensor, WeightFiles, write_weights};

/// The low-rank factors of some weights, and weights trained in full, in host memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    pub(super) rank: usize,
    pub(super) alpha: f64,
    /// Keyed by the module whose weight is adapted.
    pub(super) factors: BTreeMap<String, Factors>,
    /// Keyed by the name of the weight they replace: PEFT's `modules_to_save`.
    pub(super) whole: BTreeMap<String, WholeWeight>,
}

/// PEFT's `adapter_config.json` as it is written here.
#[derive(Debug, Serialize)]
struct PeftConfig {
    peft_type: &'static str,
    task_type: &'static str,
    base_model_name_or_path: Option<String>,
    r: usize,
    lora_alpha: f64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    rank_pattern: BTreeMap<String, usize>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    alpha_pattern: BTreeMap<String, f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    modules_to_save: Option<Vec<String>>,
    target_modules: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    layers_to_transform: Option<Vec<usize>>,
    bias: &'static str,
    inference_mode: bool,
}

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

impl Adapter {
    /// Rank r.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of trained parameters.
    pub fn parameters(&self) -> usize {
        let count = |factors: &Factors| factors.a.len() + factors.b.len();
        let whole = self.whole.values().map(|whole| whole.values.len());
        self.factors.values().map(count).sum::<usize>() + whole.sum::<usize>()
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
        for (module, factors) in &self.factors {
            let tensor = |name: &str, values: &[f32], shape| NamedTensor {
                name: format!("{PREFIX}{module}.{name}"),
                shape,
                values: values.to_vec(),
            };
            let ([d_out, d_in], rank) = (factors.shape(), factors.rank);
            if module == EMBEDDING {
                let (a, b) = (transposed(&factors.b, rank), transposed(&factors.a, d_in));
                tensors.push(tensor(EMBEDDING_A, &a, vec![rank, d_out]));
                tensors.push(tensor(EMBEDDING_B, &b, vec![d_in, rank]));
            } else {
                tensors.push(tensor(A, &factors.a, vec![rank, d_in]));
                tensors.push(tensor(B, &factors.b, vec![d_out, rank]));
            }
        }
        for (name, WholeWeight { shape, values }) in &self.whole {
            // The full weight of an adapted module is its base layer.
            let name = if self.factors.contains_key(module_of(name)) {
                format!("{}.base_layer.weight", module_of(name))
            } else {
                name.clone()
            };
            tensors.push(NamedTensor {
                name: format!("{PREFIX}{name}"),
                shape: shape.clone(),
                values: values.clone(),
            });
        }
        write_weights(&folder.join(WEIGHTS), &tensors, DType::F32)?;
        let base = base.map(|path| path.display().to_string());
        write_json(&folder.join(CONFIG), &self.peft_config(base))
    }

    fn peft_config(&self, base: Option<String>) -> PeftConfig {
        let layer = |module: &String| {
            let (layer, _) = module.strip_prefix("model.layers.")?.split_once('.')?;
            layer.parse::<usize>().ok()
        };
        let target = |module: &String| last_part(module).to_owned();
        let mut targets: Vec<String> = self.factors.keys().map(target).collect();
        targets.sort();
        targets.dedup();
        // `None` when a module lies outside the blocks, which `layers_to_transform` would exclude.
        let layers: Option<BTreeSet<usize>> = self.factors.keys().map(layer).collect();
        // Modules whose rank or alpha differs from the adapter's are listed by name.
        let alpha = |factors: &Factors| factors.scale * factors.rank as f64;
        let differs = |factors: &Factors| (alpha(factors) - self.alpha).abs() > 1e-9 * self.alpha;
        let other_rank = self.factors.iter().filter(|(_, it)| it.rank != self.rank);
        let other_alpha = self.factors.iter().filter(|(_, it)| differs(it));
        let whole = self.whole.keys().map(|name| module_of(name));
        let whole = whole.filter(|module| !self.factors.contains_key(*module));
        // Full names, since PEFT matches by suffix.
        let whole: Vec<String> = whole.map(str::to_owned).collect();
        PeftConfig {
            rank_pattern: other_rank
                .map(|(name, it)| (name.clone(), it.rank))
                .collect(),
            alpha_pattern: other_alpha
                .map(|(name, it)| (name.clone(), alpha(it)))
                .collect(),
            modules_to_save: (!whole.is_empty()).then_some(whole),
            peft_type: "LORA",
            task_type: "CAUSAL_LM",
            base_model_name_or_path: base,
            r: self.rank,
            lora_alpha: self.alpha,
            target_modules: targets,
            layers_to_transform: layers.map(|layers| layers.into_iter().collect()),
            bias: "none",
            inference_mode: true,
        }
    }

    /// Whether both adapt the same modules with the same rank and alpha; values may differ.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let shape = |adapter: &Self| (adapter.rank, adapter.alpha);
        shape(self) == shape(other) && self.factors.keys().eq(other.factors.keys())
    }

    /// Loads a folder written by [`save`](Self::save) or PEFT: LoRA and rank-stabilized LoRA on the
    /// linear layers of the blocks, the embedding and the head, with ranks and alphas per module,
    /// and weights saved in full.
    ///
    /// # Errors
    /// When a file is missing or malformed, the adapter is of another kind, or a factor is missing.
    pub fn load(folder: impl AsRef<Path>) -> Result<Self, Error> {
        let config = LoadedConfig::read(&folder.as_ref().join(CONFIG))?;
        let path = folder.as_ref().join(WEIGHTS);
        let mut files = WeightFiles::open_file(&path)?;
        let mut adapter = Self {
            rank: config.rank,
            alpha: config.alpha,
            factors: BTreeMap::new(),
            whole: BTreeMap::new(),
        };
        for name in files.names() {
            let unexpected = || Error::UnexpectedTensor {
                path: path.clone(),
                name: name.clone(),
            };
            let inner = name.strip_prefix(PREFIX).ok_or_else(unexpected)?;
            let inner = inner
                .replace(".base_layer.", ".")
                .replace(".modules_to_save.", ".");
            match Part::of(&inner) {
                Part::A { module, names } if is_adaptable(module) => {
                    let factors = config.factors(module, &name, names, &mut files)?;
                    adapter.factors.insert(module.to_owned(), factors);
                }
                Part::Whole(weight) if config.keeps_whole(weight) => {
                    let shape = files.shape(&name).unwrap_or_default().to_vec();
                    let values = files.take(&name, &shape)?;
                    let whole = WholeWeight { shape, values };
                    adapter.whole.insert(weight.to_owned(), whole);
                }
                // Read together with its A; `finish` reports it if there is none.
                Part::B => {}
                _ => return Err(unexpected()),
            }
        }
        files.finish()?;
        if adapter.factors.is_empty() {
            let reason = "it holds no factor of an adapter".to_owned();
            return Err(Error::Safetensors { path, reason });
        }
        Ok(adapter)
    }
}
