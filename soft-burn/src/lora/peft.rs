//! PEFT's adapter files: names of tensors, and the meaning of the configuration.

use std::path::Path;

use serde_json::{Map, Value};

use super::factors::Factors;
use crate::error::Error;
use crate::files::folder::read_json;
use crate::files::safetensors::WeightFiles;
use crate::model::block::PROJECTIONS;

pub(super) const PREFIX: &str = "base_model.model.";
pub(super) const A: &str = "lora_A.weight";
pub(super) const B: &str = "lora_B.weight";
pub(super) const EMBEDDING_A: &str = "lora_embedding_A";
pub(super) const EMBEDDING_B: &str = "lora_embedding_B";
/// Modules outside the blocks that may have factors.
pub(super) const EMBEDDING: &str = "model.embed_tokens";
pub(super) const HEAD: &str = "lm_head";

pub(super) enum Part<'a> {
    /// Factor A of a module, and the names of its factors.
    A {
        module: &'a str,
        names: FactorNames,
    },
    B,
    /// A full weight, by its name in the model.
    Whole(&'a str),
}

/// Names of the factors of a linear layer, or of an embedding, whose factors are transposed.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum FactorNames {
    Linear,
    Embedding,
}

impl<'a> Part<'a> {
    pub(super) fn of(name: &'a str) -> Self {
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

/// Whether `module` is a projection (`model.layers.3.mlp.up_proj`), the embedding or the head.
pub(super) fn is_adaptable(module: &str) -> bool {
    let rest = module.strip_prefix("model.layers.");
    let in_block = rest
        .and_then(|rest| rest.split_once('.'))
        .is_some_and(|(layer, part)| {
            layer.parse::<usize>().is_ok() && PROJECTIONS.iter().any(|it| it.path == part)
        });
    in_block || [EMBEDDING, HEAD].contains(&module)
}

/// The part of PEFT's configuration that determines the computation. Fields that require another
/// computation are refused; all others are ignored.
pub(super) struct LoadedConfig {
    pub(super) rank: usize,
    pub(super) alpha: f64,
    /// Ranks of single modules.
    other_ranks: Vec<u64>,
    /// The scale is α / √r instead of α / r.
    is_rank_stabilised: bool,
    /// Alphas of single modules, by suffix of the module name.
    alphas: Vec<(String, f64)>,
    /// Suffixes of the names of modules that are saved in full, submodules included.
    whole: Vec<String>,
}

impl LoadedConfig {
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
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
        // Some initialization methods change the base model's weights too.
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

    /// α / r of a module, or α / √r if rank-stabilized.
    pub(super) fn scale(&self, module: &str, rank: usize) -> f64 {
        let is_of = |key: &str| {
            let before = module.strip_suffix(key);
            before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        let own = self.alphas.iter().find(|(key, _)| is_of(key));
        let alpha = own.map_or(self.alpha, |(_, alpha)| *alpha);
        if self.is_rank_stabilised {
            alpha / (rank as f64).sqrt()
        } else {
            alpha / rank as f64
        }
    }

    /// Reads both factors of a module, where `name` is that of A. Their rank follows from the
    /// shapes and must be one of those in the configuration.
    pub(super) fn factors(
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
            // An embedding's weight is the transpose of the product of its factors.
            FactorNames::Embedding => (transposed(&b, rank), transposed(&a, d_in)),
        };
        Ok(Factors { a, b, rank, scale })
    }

    /// Whether a weight was saved in full: `modules_to_save` names its module or one that contains
    /// it. PEFT also saves embedding and head in full when they are adapted.
    pub(super) fn keeps_whole(&self, weight: &str) -> bool {
        let module = module_of(weight);
        let ends = module.match_indices('.').map(|(end, _)| end);
        let mut holders = ends.chain([module.len()]).map(|end| &module[..end]);
        let is_saved = |holder: &str| self.whole.iter().any(|name| holder.ends_with(name));
        holders.any(is_saved) || [EMBEDDING, HEAD].contains(&module)
    }
}

pub(super) fn module_of(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}

pub(super) fn last_part(module: &str) -> &str {
    module.rsplit('.').next().unwrap_or(module)
}

/// The transpose of a row-major matrix with rows of `width`.
pub(super) fn transposed(values: &[f32], width: usize) -> Vec<f32> {
    let width = width.max(1);
    let columns = (0..width).flat_map(|column| values.iter().skip(column).step_by(width));
    columns.copied().collect()
}

/// Fields of PEFT's configuration that are empty or false for LoRA as published.
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
