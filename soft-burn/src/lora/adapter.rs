//! An adapter as a value, and on disk as PEFT keeps it.
//!
//! Knows names, shapes and numbers; knows no tensor. Source: PEFT's `adapter_config.json` and `adapter_model.safetensors`; Kalajdzievski,
//! *A rank stabilization scaling factor* (arXiv 2312.03732).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use super::TARGETS;
use crate::dtype::DType;
use crate::error::Error;
use crate::files::folder::{new_folder, read_json, write_json};
use crate::files::safetensors::{NamedTensor, WeightFiles, write_weights};

/// The low-rank factors of some weights, and weights that were trained whole beside them, on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    pub(super) rank: usize,
    pub(super) alpha: f64,
    /// By the module whose weight is adapted.
    pub(super) factors: BTreeMap<String, Factors>,
    /// By the name of the weight that they replace: PEFT's `modules_to_save`.
    pub(super) whole: BTreeMap<String, WholeWeight>,
}

/// A, `[rank, d_in]`, and B, `[d_out, rank]`, row by row. The weight is read as W + scale · B·A.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Factors {
    pub a: Vec<f32>,
    pub b: Vec<f32>,
    pub rank: usize,
    pub scale: f64,
}

impl Factors {
    /// `[d_out, d_in]` of the weight they are for.
    pub(super) fn shape(&self) -> [usize; 2] {
        [self.b.len() / self.rank, self.a.len() / self.rank]
    }
}

/// A weight, row by row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WholeWeight {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
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
const PREFIX: &str = "base_model.model.";
const A: &str = "lora_A.weight";
const B: &str = "lora_B.weight";
const EMBEDDING_A: &str = "lora_embedding_A";
const EMBEDDING_B: &str = "lora_embedding_B";
/// Modules outside the blocks that may have factors.
pub(super) const EMBEDDING: &str = "model.embed_tokens";
pub(super) const HEAD: &str = "lm_head";

impl Adapter {
    /// Rank r.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Numbers that are trained.
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
            // Of an adapted module it is the weight below its factors.
            let name = match self.factors.contains_key(module_of(name)) {
                true => format!("{}.base_layer.weight", module_of(name)),
                false => name.clone(),
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
        // Layers would leave out what lies outside of them.
        let layers: Option<BTreeSet<usize>> = self.factors.keys().map(layer).collect();
        // What differs from the adapter's rank and alpha is said module by module.
        let alpha = |factors: &Factors| factors.scale * factors.rank as f64;
        let differs = |factors: &Factors| (alpha(factors) - self.alpha).abs() > 1e-9 * self.alpha;
        let other_rank = self.factors.iter().filter(|(_, it)| it.rank != self.rank);
        let other_alpha = self.factors.iter().filter(|(_, it)| differs(it));
        let whole = self.whole.keys().map(|name| module_of(name));
        let whole = whole.filter(|module| !self.factors.contains_key(*module));
        // Whole names: PEFT goes by their ends.
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

    /// Whether both adapt the same modules in the same way, whatever their numbers.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let shape = |adapter: &Self| (adapter.rank, adapter.alpha);
        shape(self) == shape(other) && self.factors.keys().eq(other.factors.keys())
    }

    /// Reads a folder that [`save`](Self::save) or PEFT wrote: LoRA and rank-stabilised LoRA on the linear maps of the blocks, the embedding
    /// and the head, with ranks and alphas of single modules, and weights saved whole.
    ///
    /// # Errors
    /// When a file is missing or malformed, the adapter is of another kind, or a factor lacks its other half.
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
                // With its A, or left over.
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

/// What a tensor of an adapter's file is.
enum Part<'a> {
    /// Factor A of a module, and how its B is called.
    A {
        module: &'a str,
        names: FactorNames,
    },
    B,
    /// A weight by its name in the model.
    Whole(&'a str),
}

/// A linear map's factors, or an embedding's, which lie the other way round.
#[derive(Clone, Copy, PartialEq)]
enum FactorNames {
    Linear,
    Embedding,
}

impl<'a> Part<'a> {
    fn of(name: &'a str) -> Self {
        let part = |suffix: &str| name.strip_suffix(suffix)?.strip_suffix('.');
        if let Some(module) = part(A) {
            let names = FactorNames::Linear;
            return Self::A { module, names };
        }
        if let Some(module) = part(EMBEDDING_A) {
            let names = FactorNames::Embedding;
            return Self::A { module, names };
        }
        match part(B).or(part(EMBEDDING_B)) {
            Some(_) => Self::B,
            None => Self::Whole(name),
        }
    }
}

/// Whether `model.layers.3.mlp.up_proj` and its like, the embedding or the head.
fn is_adaptable(module: &str) -> bool {
    let rest = module.strip_prefix("model.layers.");
    let in_block = rest
        .and_then(|rest| rest.split_once('.'))
        .is_some_and(|(layer, part)| {
            layer.parse::<usize>().is_ok() && TARGETS.iter().any(|(_, known)| *known == part)
        });
    in_block || [EMBEDDING, HEAD].contains(&module)
}

/// What PEFT's configuration says of how an adapter is computed. Fields that say it is computed in another way are refused, all others passed
/// over.
struct LoadedConfig {
    rank: usize,
    alpha: f64,
    /// Ranks of single modules.
    other_ranks: Vec<u64>,
    /// Scaled by α / √r instead of α / r.
    is_rank_stabilised: bool,
    /// Other alphas, by the ends of module names.
    alphas: Vec<(String, f64)>,
    /// Ends of the names of modules that are saved whole, with all they hold.
    whole: Vec<String>,
}

impl LoadedConfig {
    fn read(path: &Path) -> Result<Self, Error> {
        let config: Map<String, Value> = read_json(path)?;
        let refusal = |key, found: &Value, expected: &str| Error::Config {
            path: path.to_owned(),
            key,
            found: found.to_string(),
            expected: expected.to_owned(),
        };
        let field = |key: &str| config.get(key).unwrap_or(&Value::Null);
        if field("peft_type") != "LORA" {
            return Err(refusal("peft_type", field("peft_type"), "\"LORA\""));
        }
        for key in PLAIN_WITHOUT {
            let empty = match field(key) {
                Value::Null | Value::Bool(false) => true,
                Value::Object(entries) => entries.is_empty(),
                Value::Array(items) => items.is_empty(),
                _ => false,
            };
            if !empty {
                return Err(refusal(key, field(key), "none: LoRA as it was published"));
            }
        }
        // Some ways to draw the first values change the base model's weights too.
        match field("init_lora_weights") {
            Value::Null | Value::Bool(_) => {}
            Value::String(way) if way == "gaussian" || way == "orthogonal" => {}
            other => {
                let expected = "true, false, gaussian or orthogonal, which leave the base as it is";
                return Err(refusal("init_lora_weights", other, expected));
            }
        }
        match field("bias") {
            Value::Null => {}
            bias if bias == "none" => {}
            other => return Err(refusal("bias", other, "\"none\"")),
        }
        let rank = field("r").as_u64().filter(|rank| *rank > 0);
        let rank = rank.ok_or_else(|| refusal("r", field("r"), "a whole number, at least 1"))?;
        let alpha = field("lora_alpha").as_f64();
        let alpha = alpha.ok_or_else(|| refusal("lora_alpha", field("lora_alpha"), "a number"))?;
        let pattern = |key: &'static str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
            let numbers = match field(key) {
                Value::Null => Some(Vec::new()),
                Value::Object(entries) => entries
                    .iter()
                    .map(|(name, value)| Some((name.clone(), value.as_f64()?)))
                    .collect::<Option<Vec<_>>>()
                    .filter(|all| all.iter().all(|(name, _)| name.chars().all(plain))),
                _ => None,
            };
            let expected = "numbers by the ends of module names, such as v_proj";
            numbers.ok_or_else(|| refusal(key, field(key), expected))
        };
        let whole = match field("modules_to_save") {
            Value::Null => Some(Vec::new()),
            Value::Array(names) => names
                .iter()
                .map(|name| Some(name.as_str()?.to_owned()))
                .collect(),
            _ => None,
        };
        let whole = whole.ok_or_else(|| {
            refusal(
                "modules_to_save",
                field("modules_to_save"),
                "an array of module names",
            )
        })?;
        let is_rank_stabilised = match field("use_rslora") {
            Value::Null => Some(false),
            stabilised => stabilised.as_bool(),
        };
        let is_rank_stabilised = is_rank_stabilised
            .ok_or_else(|| refusal("use_rslora", field("use_rslora"), "true or false"))?;
        let ranks = pattern("rank_pattern")?.into_iter();
        Ok(Self {
            rank: rank as usize,
            alpha,
            other_ranks: ranks.map(|(_, rank)| rank as u64).collect(),
            is_rank_stabilised,
            alphas: pattern("alpha_pattern")?,
            whole,
        })
    }

    /// α / r of a module, or α / √r.
    fn scale(&self, module: &str, rank: usize) -> f64 {
        let is_of = |key: &str| {
            let before = module.strip_suffix(key);
            before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        let own = self.alphas.iter().find(|(key, _)| is_of(key));
        let alpha = own.map_or(self.alpha, |(_, alpha)| *alpha);
        match self.is_rank_stabilised {
            true => alpha / (rank as f64).sqrt(),
            false => alpha / rank as f64,
        }
    }

    /// Takes both factors of a module, `name` being that of its A. Their rank is that of their shapes, if it is one that the configuration
    /// gives.
    fn factors(
        &self,
        module: &str,
        name: &str,
        names: FactorNames,
        files: &mut WeightFiles,
    ) -> Result<Factors, Error> {
        let b = match names {
            FactorNames::Linear => B,
            FactorNames::Embedding => EMBEDDING_B,
        };
        let other = format!("{PREFIX}{module}.{b}");
        let side = |name: &str, at: usize| {
            let shape = files.shape(name).unwrap_or_default();
            shape.get(at).copied().unwrap_or(0)
        };
        let (rank, d_in, d_out) = (side(name, 0).max(1), side(name, 1), side(&other, 0));
        if rank != self.rank && !self.other_ranks.contains(&(rank as u64)) {
            let reason = format!(
                "its factors are of rank {rank}: r and rank_pattern of the configuration say {}",
                self.rank
            );
            return Err(Error::AdapterMismatch {
                module: module.to_owned(),
                reason,
            });
        }
        let a = files.take(name, &[rank, d_in])?;
        let b = files.take(&other, &[d_out, rank])?;
        let scale = self.scale(module, rank);
        let (a, b) = match names {
            FactorNames::Linear => (a, b),
            // An embedding's weight is the transpose of what its factors make.
            FactorNames::Embedding => (transposed(&b, rank), transposed(&a, d_in)),
        };
        Ok(Factors { a, b, rank, scale })
    }

    /// Whether a weight was saved whole: its module, or one that holds it, has such a name. Embeddings that were adapted are saved with
    /// their adapter.
    fn keeps_whole(&self, weight: &str) -> bool {
        let module = module_of(weight);
        let ends = module.match_indices('.').map(|(end, _)| end);
        let mut holders = ends.chain([module.len()]).map(|end| &module[..end]);
        let is_saved = |holder: &str| self.whole.iter().any(|name| holder.ends_with(name));
        holders.any(is_saved) || [EMBEDDING, HEAD].contains(&module)
    }
}

/// The module that a weight is of.
fn module_of(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}

fn last_part(module: &str) -> &str {
    module.rsplit('.').next().unwrap_or(module)
}

/// The transpose of a matrix with rows of `width`.
fn transposed(values: &[f32], width: usize) -> Vec<f32> {
    let width = width.max(1);
    let columns = (0..width).flat_map(|column| values.iter().skip(column).step_by(width));
    columns.copied().collect()
}

/// Fields of PEFT's that are empty or false for LoRA as it was published.
const PLAIN_WITHOUT: [&str; 9] = [
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "fan_in_fan_out",
    "lora_bias",
    "layer_replication",
    "alora_invocation_tokens",
    "trainable_token_indices",
    "ensure_weight_tying",
];
