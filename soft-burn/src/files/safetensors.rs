//! Named tensors on disk: one safetensors file, or several with an index.
//!
//! Independent of models. Source: Hugging Face's `model.safetensors.index.json`.

mod file;
mod write;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::Error;
use crate::files::folder::{exists, read_text};
use file::WeightFile;
pub(crate) use write::{NamedTensor, write_weights};

/// The tensors of a checkpoint folder, each read on request.
#[derive(Debug)]
pub(crate) struct WeightFiles {
    path: PathBuf,
    files: Vec<WeightFile>,
    /// Keyed by the name a tensor is requested by; removed when read.
    unread: BTreeMap<String, Place>,
}

#[derive(Clone, Debug)]
struct Place {
    file: usize,
    stored: String,
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

impl WeightFiles {
    /// Opens `model.safetensors` or the shards of `model.safetensors.index.json` in `folder`.
    /// Tensors get the names of `LlamaForCausalLM`, without the prefixes of wrapper modules.
    pub fn open_folder(folder: &Path) -> Result<Self, Error> {
        let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
        let mut opened = match (exists(&single)?, exists(&index)?) {
            (true, _) => Self::open_file(&single)?,
            (false, true) => Self::open_shards(folder, &index)?,
            (false, false) => return Err(no_weights(folder)),
        };
        opened.path = folder.to_owned();
        opened.without_wrappers()
    }

    /// Whether `folder` has weights in a supported format.
    pub fn are_in(folder: &Path) -> Result<bool, Error> {
        Ok(exists(&folder.join(SINGLE))? || exists(&folder.join(INDEX))?)
    }

    /// Opens a single file.
    pub fn open_file(path: &Path) -> Result<Self, Error> {
        let file = WeightFile::open(path)?;
        let names = file.metadata.offset_keys().into_iter();
        let unread = names.map(|name| {
            let stored = name.clone();
            (name, Place { file: 0, stored })
        });
        Ok(Self {
            path: path.to_owned(),
            unread: unread.collect(),
            files: vec![file],
        })
    }

    fn open_shards(folder: &Path, index: &Path) -> Result<Self, Error> {
        let text = read_text(index)?;
        let map: ShardIndex = serde_json::from_str(&text).map_err(Error::json(index))?;
        let mut names: Vec<&String> = map.weight_map.values().collect();
        names.sort();
        names.dedup();
        if let Some(name) = names.iter().find(|name| !is_within(name)) {
            let (path, reason) = (
                index.to_owned(),
                format!("it names the file {name:?}: expected files in the folder"),
            );
            return Err(Error::Safetensors { path, reason });
        }
        let open = |name: &&String| WeightFile::open(&folder.join(name));
        let files = names.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let mut unread = BTreeMap::new();
        for (shard, file) in files.iter().enumerate() {
            for name in file.metadata.offset_keys() {
                let listed = map.weight_map.get(&name);
                if listed != Some(names[shard]) && !is_derived(&name) {
                    let listed = listed.map_or("nowhere", String::as_str);
                    let reason =
                        format!("it holds tensor {name}, which the index places in {listed}");
                    return Err(file.invalid(reason));
                }
                let stored = name.clone();
                unread.insert(
                    name,
                    Place {
                        file: shard,
                        stored,
                    },
                );
            }
        }
        let missing = |name: &&String| !unread.contains_key(*name) && !is_derived(name);
        if let Some(name) = map.weight_map.keys().find(missing) {
            let path = folder.join(&map.weight_map[name]);
            let reason = format!("tensor {name} is missing, which the index places here");
            return Err(Error::Safetensors { path, reason });
        }
        Ok(Self {
            path: folder.to_owned(),
            files,
            unread,
        })
    }

    /// Renames the tensors as in a model without wrappers.
    fn without_wrappers(mut self) -> Result<Self, Error> {
        let mut unread = BTreeMap::new();
        for (name, place) in std::mem::take(&mut self.unread) {
            let (file, plain) = (place.file, unwrapped(&name));
            if let Some(other) = unread.insert(plain.clone(), place) {
                let reason = format!(
                    "tensors {} and {name} are both {plain} of the model",
                    other.stored
                );
                return Err(self.files[file].invalid(reason));
            }
        }
        self.unread = unread;
        Ok(self)
    }

    /// Renames tensor `name` to `new`.
    pub fn rename(&mut self, name: &str, new: &str) {
        if let Some(place) = self.unread.remove(name) {
            self.unread.insert(new.to_owned(), place);
        }
    }

    /// Whether tensors `a` and `b` are present, unread and equal.
    pub fn are_equal(&mut self, a: &str, b: &str) -> Result<bool, Error> {
        let shape = |name| self.shape(name).map(<[usize]>::to_vec);
        let (Some(of_a), Some(of_b)) = (shape(a), shape(b)) else {
            return Ok(false);
        };
        if of_a != of_b {
            return Ok(false);
        }
        let values = self.peek(a, &of_a)?;
        Ok(values == self.peek(b, &of_b)?)
    }

    /// Names of the tensors not read yet, sorted.
    pub fn names(&self) -> Vec<String> {
        self.unread.keys().cloned().collect()
    }

    /// Drops `name`, so that [`finish`](Self::finish) does not report it as unexpected.
    pub fn skip(&mut self, name: &str) {
        self.unread.remove(name);
    }

    /// Reads tensor `name`, which must have `shape`, as f32 and removes it.
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let values = self.peek(name, shape)?;
        self.unread.remove(name);
        Ok(values)
    }

    /// Reads tensor `name` without removing it.
    fn peek(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        match self.unread.get(name) {
            Some(place) => self.files[place.file].read(&place.stored, shape),
            None => Err(Error::MissingTensor {
                path: self.path.clone(),
                name: name.to_owned(),
                expected: shape.to_vec(),
            }),
        }
    }

    /// Shape of tensor `name`, if it is there and unread.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        let place = self.unread.get(name)?;
        let file = &self.files[place.file];
        file.metadata
            .info(&place.stored)
            .map(|info| info.shape.as_slice())
    }

    /// Returns an error if tensors are left unread.
    pub fn finish(self) -> Result<(), Error> {
        match self.unread.into_iter().next() {
            None => Ok(()),
            Some((_, place)) => Err(Error::UnexpectedTensor {
                path: self.files[place.file].path.clone(),
                name: place.stored,
            }),
        }
    }
}

/// Whether a tensor follows from the configuration: the rotary frequencies of old converters.
pub(crate) fn is_derived(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
}

/// The name of a tensor without the prefixes of wrappers: `_orig_mod.` of torch.compile, `module.`
/// of data parallelism, `model.` of a module that holds the model. Adds the `model.` that is
/// missing when a headless `LlamaModel` was saved.
fn unwrapped(name: &str) -> String {
    let name = name.replace("_orig_mod.", "");
    let name = name.strip_prefix("module.").unwrap_or(&name);
    let inner = name.strip_prefix("model.").unwrap_or_default();
    let is_body = |name: &str| {
        let parts = ["layers.", "embed_tokens.", "norm.", "rotary_emb."];
        parts.into_iter().any(|part| name.starts_with(part))
    };
    match (
        is_body(name),
        inner.starts_with("model.") || inner.starts_with("lm_head."),
    ) {
        (true, _) => format!("model.{name}"),
        (false, true) => inner.to_owned(),
        (false, false) => name.to_owned(),
    }
}

/// Whether `name` is a file within the folder of the index.
fn is_within(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let normal = parts.all(|part| matches!(part, std::path::Component::Normal(_)));
    normal && !name.is_empty() && !name.contains('\\')
}

/// The error for a folder without safetensors: what it holds instead, and how to fix it.
fn no_weights(folder: &Path) -> Error {
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    let find = |fits: fn(&str) -> bool| names.iter().find(|name| fits(name)).cloned();
    let pickled = |name: &str| {
        [".bin", ".pth", ".pt"]
            .iter()
            .any(|end| name.ends_with(end))
            && !name.starts_with("training_args")
    };
    let (found, advice) = if let Some(name) = find(pickled) {
        (
            name,
            "load it in transformers and save it again, which writes safetensors; pickled weights are not read, since they can run code",
        )
    } else if let Some(name) = find(|name| name.ends_with(".gguf")) {
        (name, "take the safetensors it was made from")
    } else {
        ("no weights".to_owned(), "is the download complete?")
    };
    Error::NoWeights {
        folder: folder.to_owned(),
        found,
        advice,
    }
}
