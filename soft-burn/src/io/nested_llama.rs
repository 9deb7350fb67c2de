//! Balcony's published form of a model, `model_type` "nested_llama".
//!
//! Blocks, norms and heads of exits are in the model's own file, as
//! `model.exit_modules.{i}.{part}`: part 0 is a decoder layer, 1 its norm, 2 a head of its own;
//! without a decoder layer, 0 is the norm and 1 the head. The exit at index n reads the state after
//! n blocks.
//!
//! Source: the configuration and modeling code of Jamialahmadi et al., *Balcony* (arXiv
//! 2503.05005). That code defines `exit_decoder_layer`; for `exit_attention` and `exit_mlp`, its
//! training settings are known, but the names of their tensors are assumed to be those of the
//! layer's remaining half.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use soft_core::{Exit, Exits};

use crate::error::Error;
use crate::files::safetensors::{NamedTensor, WeightFiles};
use crate::model::architecture::{ModelType, NESTED_LLAMA};
use crate::model::block::{Block, Halves};
use crate::model::config::LlamaConfig;
use crate::model::exit_blocks::EXIT_BLOCKS;
use crate::model::exit_heads::EXIT_HEADS;
use crate::model::init::{ExitParts, construct_exit_blocks, construct_exit_heads};
use crate::model::llama::Llama;
use crate::model::refusal::Refusal;

/// What config.json says of the exits.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NestedLlama {
    /// In the order of `exit_modules`.
    exits: Vec<Exit>,
    /// `None` when an exit is a norm alone.
    block: Option<Halves>,
    /// Whether the exits have heads of their own.
    heads: bool,
}

/// The keys of the form; `output_exit_layers` and `output_full_model` choose what the authors' code
/// returns, not what a model consists of.
#[derive(Deserialize)]
struct Keys {
    exit_layer_indices: Option<Vec<usize>>,
    #[serde(default)]
    exit_decoder_layer: bool,
    #[serde(default)]
    exit_attention: bool,
    #[serde(default)]
    exit_mlp: bool,
    tie_exit_lm_head: Option<bool>,
}

const KEYS: [&str; 7] = [
    "exit_layer_indices",
    "exit_decoder_layer",
    "exit_attention",
    "exit_mlp",
    "tie_exit_lm_head",
    "output_exit_layers",
    "output_full_model",
];

impl NestedLlama {
    /// Reads the keys of config.json at `path`, as last read into `config`; `None` for a model in
    /// another form.
    pub fn of(config: &LlamaConfig, path: &Path) -> Result<Option<Self>, Error> {
        let model_type = config.other.get("model_type").and_then(Value::as_str);
        if model_type != Some(NESTED_LLAMA) {
            return Ok(None);
        }
        let keys = Value::Object(config.other.clone());
        let keys = Keys::deserialize(keys).map_err(Error::json(path))?;
        let refuse = Refusal { path };
        let block = match (keys.exit_attention, keys.exit_mlp) {
            (true, true) => {
                let found = "true, and exit_mlp too";
                let expected = "one of them: each leaves out the other half of the layer";
                return Err(refuse.because("exit_attention", found, expected));
            }
            (true, false) => Some(Halves::Attention),
            (false, true) => Some(Halves::FeedForward),
            (false, false) => keys.exit_decoder_layer.then_some(Halves::Both),
        };
        let depths = keys.exit_layer_indices.unwrap_or_default();
        let depth = config.n_layers;
        let listed = || format!("{depths:?}");
        let wrong = |expected: String| refuse.because("exit_layer_indices", listed(), expected);
        let (mut sorted, count) = (depths.clone(), depths.len());
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.is_empty() || sorted.len() < count {
            return Err(wrong("exits, each once".to_owned()));
        }
        if sorted.iter().any(|exit| !(1..depth).contains(exit)) {
            return Err(wrong(format!("1 to {}, before the last block", depth - 1)));
        }
        let exits = depths.iter().map(|&depth| Exit::new(depth));
        Ok(Some(Self {
            exits: exits.collect::<Result<_, _>>()?,
            block,
            heads: !keys.tie_exit_lm_head.unwrap_or(config.tied),
        }))
    }

    /// The exits, the last one the full depth.
    pub fn exits(&self, depth: usize) -> Result<Exits, Error> {
        let mut depths: Vec<usize> = self.exits.iter().map(|exit| exit.depth()).collect();
        depths.push(depth);
        depths.sort_unstable();
        Ok(Exits::new(depths)?)
    }

    /// Adds the exits from the model's own files.
    pub fn construct(self, llama: Llama, files: &mut WeightFiles) -> Result<Llama, Error> {
        let name = |index: usize, part: usize| format!("model.exit_modules.{index}.{part}");
        let norm = usize::from(self.block.is_some());
        let mut exits: Vec<_> = self.exits.iter().copied().enumerate().collect();
        exits.sort_by_key(|(_, exit)| exit.depth());
        let parts = exits.iter().map(|&(index, exit)| ExitParts {
            exit,
            block: self.block.map(|halves| (name(index, 0), halves)),
            norm: name(index, norm),
        });
        let llama = construct_exit_blocks(llama, parts.collect(), files)?;
        if !self.heads {
            return Ok(llama);
        }
        let heads = exits
            .iter()
            .map(|&(index, exit)| (exit, name(index, norm + 1)));
        construct_exit_heads(llama, heads.collect(), files)
    }
}

/// Removes the keys of this form from those last read.
pub(crate) fn forget_keys(config: &mut LlamaConfig) {
    KEYS.iter().for_each(|key| {
        config.other.remove(*key);
    });
}

impl Llama {
    /// What this model is in Balcony's form.
    ///
    /// # Errors
    /// When the form has no place for it: another family, no exits with their own norm, exits with
    /// different parts, or heads at other exits.
    fn nested(&self) -> Result<NestedLlama, Error> {
        let refuse = |reason: &str| Error::NestedForm {
            reason: reason.to_owned(),
        };
        let architecture = self.config.architecture;
        if architecture.model_type != ModelType::Llama || architecture.qk_norm {
            return Err(refuse("it is not of model_type llama"));
        }
        let halves = self
            .exit_blocks
            .blocks
            .iter()
            .map(|own| own.block.as_ref().map(Block::halves));
        let mut halves: Vec<_> = halves.collect();
        halves.dedup();
        let [block] = halves[..] else {
            return Err(refuse(
                "its exits need blocks or norms of their own, the same parts each",
            ));
        };
        let exits = self.exit_blocks.exits.clone();
        let heads = !self.exit_heads.exits.is_empty();
        if heads && self.exit_heads.exits != exits {
            return Err(refuse(
                "the exits with heads of their own are not those with blocks",
            ));
        }
        Ok(NestedLlama {
            exits,
            block,
            heads,
        })
    }

    /// Changes config.json and the names of tensors to Balcony's form.
    ///
    /// # Errors
    /// See [`Llama::nested`].
    pub(crate) fn to_nested(
        &self,
        config: &mut Map<String, Value>,
        tensors: &mut [NamedTensor],
    ) -> Result<(), Error> {
        let nested = self.nested()?;
        let depths: Vec<usize> = nested.exits.iter().map(|exit| exit.depth()).collect();
        let keys = json!({
            "model_type": NESTED_LLAMA,
            "architectures": ["NestedLlamaForCausalLM"],
            "exit_layer_indices": depths,
            "output_exit_layers": depths,
            "output_full_model": true,
            "exit_decoder_layer": nested.block.is_some(),
            "exit_attention": nested.block == Some(Halves::Attention),
            "exit_mlp": nested.block == Some(Halves::FeedForward),
            "tie_exit_lm_head": !nested.heads,
        });
        config.extend(keys.as_object().cloned().unwrap_or_default());
        let norm = usize::from(nested.block.is_some());
        for tensor in tensors {
            let own = |prefix| {
                let (depth, rest) = tensor.name.strip_prefix(prefix)?.split_once('.')?;
                let depth = depth.parse::<usize>().ok()?;
                Some((depths.iter().position(|it| *it == depth)?, rest))
            };
            let part = own(EXIT_BLOCKS)
                .and_then(|(index, rest)| {
                    let (part, rest) = rest.split_once('.')?;
                    Some((index, if part == "block" { 0 } else { norm }, rest))
                })
                .or_else(|| own(EXIT_HEADS).map(|(index, rest)| (index, norm + 1, rest)));
            if let Some((index, part, rest)) = part {
                tensor.name = format!("model.exit_modules.{index}.{part}.{rest}");
            }
        }
        Ok(())
    }
}
