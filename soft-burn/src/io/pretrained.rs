//! Models as Hugging Face folders: `from_pretrained` and `save_pretrained`.
//!
//! A saved folder loads in transformers. `soft.json` records how the model was trained. Heads and
//! blocks of single exits are in separate files, which transformers ignores; `nested_llama` has
//! Balcony's own form. Weights are neither
//! permuted nor renamed.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use soft_core::policy::CalibratedExits;
use soft_core::{Exit, Exits};

use crate::dtype::DType;
use crate::error::Error;
use crate::files::adapter_chain::{adapters, weights_folder};
use crate::files::folder::{
    exists, new_folder, open_regular, read_json, replace_json, write_json, write_text,
};
use crate::files::safetensors::{WeightFiles, is_derived, write_weights};
use crate::io::draft_tokens::DRAFT_TOKENS_FILE;
use crate::io::nested_llama::{NestedLlama, forget_keys};
use crate::lora::LORA;
use crate::lora::adapter::Adapter;
use crate::model::architecture::NESTED_LLAMA;
use crate::model::block::Halves;
use crate::model::config::LlamaConfig;
use crate::model::exit_blocks::EXIT_BLOCKS;
use crate::model::exit_heads::EXIT_HEADS;
use crate::model::init::{
    ExitParts, WeightSource, construct, construct_exit_blocks, construct_exit_heads,
};
use crate::model::llama::Llama;
use crate::model::parameters::named_tensors;
use crate::model::placement::Placement;
use crate::model::refusal::Refusal;

const EXIT_HEADS_FILE: &str = "exit_heads.safetensors";
const EXIT_BLOCKS_FILE: &str = "exit_blocks.safetensors";
const SOFT_FILE: &str = "soft.json";
/// Files other than weights that are copied with a model.
const COMPANIONS: [&str; 10] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja",
    "generation_config.json",
    DRAFT_TOKENS_FILE,
    "LICENSE",
];

/// How a model was trained: the content of `soft.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SoftInfo {
    /// The exits it was trained at; the last is the full model.
    pub exits: Exits,
    /// Training method: "soft", "sft", "ict" or "balcony".
    pub method: String,
    /// Origin: base model, data, settings. Free form.
    #[serde(default)]
    pub provenance: Value,
    /// Exit thresholds with a calibrated guarantee, preferred rule first; empty until calibrated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calibrated: Vec<CalibratedExits>,
}

/// What to write beside the weights, and the number type of the weights.
#[derive(Clone, Copy, Debug)]
pub struct SaveOptions<'a> {
    /// Number type of the weights.
    pub dtype: DType,
    /// Written as `soft.json` when given.
    pub soft: Option<&'a SoftInfo>,
    /// A model folder whose tokenizer and generation files are copied along.
    pub companions: Option<&'a Path>,
    /// Further files, which replace companions of the same name.
    pub files: &'a [CompanionFile],
    /// Write Balcony's form, `nested_llama`, with the exits in the model's own file. transformers
    /// loads it with the authors' classes only.
    pub nested_llama: bool,
}

/// A small file of a model folder, such as a chat template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompanionFile {
    /// Its name in the folder.
    pub name: String,
    /// Its content.
    pub text: String,
}

impl Default for SaveOptions<'_> {
    fn default() -> Self {
        Self {
            dtype: DType::F32,
            soft: None,
            companions: None,
            files: &[],
            nested_llama: false,
        }
    }
}

impl Llama {
    /// Loads a folder of one of the families in [`ModelType`](crate::ModelType), or of Balcony's
    /// `nested_llama`. Weights are converted to f32, or to the type given in
    /// `place`: `&device`, or `(&device, DType::Bf16)`. An adapter in the folder, as in the
    /// checkpoints of a LoRA run, is merged.
    ///
    /// # Errors
    /// When a file is missing or corrupt, the architecture is not supported, a tensor is missing,
    /// unexpected or not of the shape given by config.json, or the device does not compute in the
    /// number type.
    pub fn from_pretrained(
        folder: impl AsRef<Path>,
        place: impl Into<Placement>,
    ) -> Result<Self, Error> {
        let (folder, place) = (folder.as_ref(), place.into());
        if adapters(folder)?.is_empty() {
            return Self::without_adapter(folder, &place);
        }
        // Merged in f32 and rounded once.
        place.check()?;
        let llama = Self::with_adapter_apart(folder, &place.device)?.merged();
        Ok(llama.with_weights(place.dtype))
    }

    fn without_adapter(folder: &Path, place: &Placement) -> Result<Self, Error> {
        let mut config = LlamaConfig::load(folder)?;
        let nested = NestedLlama::of(&config, &folder.join("config.json"))?;
        forget_keys(&mut config);
        let mut files = WeightFiles::open_folder(folder)?;
        if config.tied {
            config.tied = tie_head(&mut files)?;
        }
        let derived = files.names().into_iter().filter(|name| is_derived(name));
        derived.for_each(|name| files.skip(&name));
        let llama = construct(config, &mut files, place)?;
        if let Some(nested) = nested {
            check_alone(folder)?;
            let llama = nested.construct(llama, &mut files)?;
            files.finish()?;
            return Ok(llama);
        }
        files.finish()?;
        llama.load_exit_heads(folder)?.load_exit_blocks(folder)
    }

    /// Loads in f32 and leaves the last adapter unmerged.
    pub(crate) fn with_adapter_apart(folder: &Path, device: &Device) -> Result<Self, Error> {
        let mut llama = Self::without_adapter(&weights_folder(folder)?, &device.into())?;
        for adapter in adapters(folder)? {
            llama = llama.merged().with_adapter(&Adapter::load(adapter)?)?;
        }
        Ok(llama)
    }

    fn load_exit_heads(self, folder: &Path) -> Result<Self, Error> {
        let path = folder.join(EXIT_HEADS_FILE);
        if !exists(&path)? {
            return Ok(self);
        }
        let mut files = WeightFiles::open_file(&path)?;
        let exits = exits_of(&files, &path, EXIT_HEADS)?;
        exits.check_within(self.config.n_layers)?;
        let named = exits
            .iter()
            .map(|exit| (exit, format!("{EXIT_HEADS}{exit}")));
        let llama = construct_exit_heads(self, named.collect(), &mut files)?;
        files.finish()?;
        Ok(llama)
    }

    fn load_exit_blocks(self, folder: &Path) -> Result<Self, Error> {
        let path = folder.join(EXIT_BLOCKS_FILE);
        if !exists(&path)? {
            return Ok(self);
        }
        let mut files = WeightFiles::open_file(&path)?;
        let exits = exits_of(&files, &path, EXIT_BLOCKS)?;
        // The full depth has none.
        exits.check_within(self.config.n_layers - 1)?;
        let parts = exits.iter().map(|exit| exit_parts(&files, exit)).collect();
        let llama = construct_exit_blocks(self, parts, &mut files)?;
        files.finish()?;
        Ok(llama)
    }

    /// Writes a new folder that [`from_pretrained`](Self::from_pretrained) and transformers load.
    ///
    /// The folder is written under a temporary name and renamed. An adapter is not saved: include
    /// it in the weights with [`merged`](Self::merged), or save it apart with
    /// [`adapter`](Self::adapter).
    ///
    /// # Errors
    /// [`Error::OutputExists`] when `folder` exists; I/O errors.
    pub fn save_pretrained(
        &self,
        folder: impl AsRef<Path>,
        options: &SaveOptions,
    ) -> Result<(), Error> {
        new_folder(folder.as_ref(), |partial| self.write_into(partial, options))
    }

    /// Writes the files of a model folder into an existing one.
    pub(crate) fn write_into(&self, folder: &Path, options: &SaveOptions) -> Result<(), Error> {
        let mut config = self.config.to_json(options.dtype.torch_name());
        let mut tensors = named_tensors(self)?;
        tensors.retain(|tensor| !tensor.name.contains(LORA));
        if options.nested_llama {
            self.to_nested(&mut config, &mut tensors)?;
        }
        write_json(&folder.join("config.json"), &config)?;
        for (prefix, file) in [
            (EXIT_HEADS, EXIT_HEADS_FILE),
            (EXIT_BLOCKS, EXIT_BLOCKS_FILE),
        ] {
            let (own, shared): (Vec<_>, Vec<_>) = tensors
                .into_iter()
                .partition(|tensor| tensor.name.starts_with(prefix));
            tensors = shared;
            if !own.is_empty() {
                write_weights(&folder.join(file), &own, options.dtype)?;
            }
        }
        write_weights(&folder.join("model.safetensors"), &tensors, options.dtype)?;
        if let Some(soft) = options.soft {
            write_json(&folder.join(SOFT_FILE), soft)?;
        }
        if let Some(source) = options.companions {
            copy_companions(source, folder)?;
        }
        let mut files = options.files.iter();
        files.try_for_each(|CompanionFile { name, text }| write_text(&folder.join(name), text))
    }
}

/// Refuses files of exits beside a `nested_llama`, which has its exits in its own file.
fn check_alone(folder: &Path) -> Result<(), Error> {
    for name in [EXIT_BLOCKS_FILE, EXIT_HEADS_FILE] {
        if exists(&folder.join(name))? {
            let refuse = Refusal {
                path: &folder.join("config.json"),
            };
            let found = format!("{NESTED_LLAMA}, beside {name}");
            return Err(refuse.because("model_type", found, "exits in one place"));
        }
    }
    Ok(())
}

/// The parts that a file of exit blocks has for `exit`.
fn exit_parts(files: &WeightFiles, exit: Exit) -> ExitParts {
    let name = format!("{EXIT_BLOCKS}{exit}");
    let has = |part: &str| {
        let prefix = format!("{name}.block.{part}.");
        files.names().iter().any(|name| name.starts_with(&prefix))
    };
    let halves = match (has("self_attn"), has("mlp")) {
        (true, true) => Some(Halves::Both),
        (true, false) => Some(Halves::Attention),
        (false, true) => Some(Halves::FeedForward),
        (false, false) => None,
    };
    ExitParts {
        exit,
        block: halves.map(|halves| (format!("{name}.block"), halves)),
        norm: format!("{name}.norm"),
    }
}

/// The exits in a file whose tensors are named `{prefix}{depth}.` and so on.
fn exits_of(files: &WeightFiles, path: &Path, prefix: &str) -> Result<Exits, Error> {
    let depth = |name: &String| {
        let (depth, _) = name.strip_prefix(prefix)?.split_once('.')?;
        depth.parse::<usize>().ok()
    };
    let unexpected = |name: &String| Error::UnexpectedTensor {
        path: path.to_owned(),
        name: name.clone(),
    };
    let names = files.names();
    let depths = names
        .iter()
        .map(|name| depth(name).ok_or_else(|| unexpected(name)));
    let mut depths = depths.collect::<Result<Vec<_>, _>>()?;
    depths.sort_unstable();
    depths.dedup();
    Ok(Exits::new(depths)?)
}

impl SoftInfo {
    /// Reads `soft.json` of `folder`, or what config.json says of the exits of a `nested_llama`;
    /// `None` when the folder has neither.
    ///
    /// # Errors
    /// When a file is malformed.
    pub fn load(folder: impl AsRef<Path>) -> Result<Option<Self>, Error> {
        let folder = folder.as_ref();
        let path = folder.join(SOFT_FILE);
        if exists(&path)? {
            return read_json(&path).map(Some);
        }
        let path = weights_folder(folder)?.join("config.json");
        if !exists(&path)? {
            return Ok(None);
        }
        let config = LlamaConfig::load(folder)?;
        let nested = NestedLlama::of(&config, &path)?;
        let info = nested.map(|nested| {
            Ok(Self {
                exits: nested.exits(config.n_layers)?,
                method: "balcony".to_owned(),
                provenance: Value::Null,
                calibrated: Vec::new(),
            })
        });
        info.transpose()
    }

    /// Writes `soft.json` of `folder`, replacing an existing one atomically.
    ///
    /// # Errors
    /// I/O errors.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<(), Error> {
        replace_json(&folder.as_ref().join(SOFT_FILE), self)
    }
}

/// The companion files that exist. In an adapter folder, its own come before those of its base.
fn companions(source: &Path) -> Result<Vec<(&'static str, PathBuf)>, Error> {
    let base = weights_folder(source)?;
    let mut found = Vec::new();
    for name in COMPANIONS {
        let own = source.join(name);
        let file = if exists(&own)? { own } else { base.join(name) };
        if exists(&file)? {
            found.push((name, file));
        }
    }
    Ok(found)
}

/// Checks before training that the companion files can be copied after it.
///
/// # Errors
/// When one is not a regular file or cannot be read.
pub(crate) fn check_companions(source: &Path) -> Result<(), Error> {
    let files = companions(source)?;
    files
        .iter()
        .try_for_each(|(_, file)| open_regular(file).map(drop))
}

fn copy_companions(source: &Path, target: &Path) -> Result<(), Error> {
    for (name, file) in companions(source)? {
        let copied = open_regular(&file).map(|mut from| {
            let target = target.join(name);
            target.parent().map_or(Ok(()), fs::create_dir_all)?;
            let mut to = fs::File::create(target)?;
            std::io::copy(&mut from, &mut to)
        })?;
        copied.map_err(Error::io("copy", &file))?;
    }
    Ok(())
}

/// Whether a model with tied weights in its config has a tied head. A head stored alone is used for
/// both. A head that differs, as after merging an adapter into it, is kept untied.
fn tie_head(files: &mut WeightFiles) -> Result<bool, Error> {
    let is_there = |files: &WeightFiles, name| files.shape(name).is_some();
    match (is_there(files, EMBEDDING), is_there(files, HEAD)) {
        (_, false) => Ok(true),
        (false, true) => {
            files.rename(HEAD, EMBEDDING);
            Ok(true)
        }
        (true, true) => {
            let equal = files.are_equal(EMBEDDING, HEAD)?;
            if equal {
                files.skip(HEAD);
            }
            Ok(equal)
        }
    }
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

impl WeightSource for WeightFiles {
    fn values(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        self.take(name, shape)
    }
}
