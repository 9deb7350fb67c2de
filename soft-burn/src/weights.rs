//! Named tensors on disk: one safetensors file, or several with an index.
//!
//! Reads and writes numbers and shapes; knows nothing of models. Files are checked whole before
//! a tensor is taken from them: header length, JSON, offsets, and that they cover the file to its
//! last byte. Source: the safetensors format and Hugging Face's `model.safetensors.index.json`.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use safetensors::{Dtype, tensor::Metadata};
use serde::{Deserialize, Serialize};

use crate::Error;

/// The tensors of a checkpoint folder, read one by one as they are asked for.
#[derive(Debug)]
pub(crate) struct WeightFiles {
    /// The folder or file, for messages.
    path: PathBuf,
    files: Vec<WeightFile>,
    /// Tensor name to index in `files`; a name is taken out when read.
    unread: BTreeMap<String, usize>,
}

/// One safetensors file whose header was checked.
#[derive(Debug)]
struct WeightFile {
    path: PathBuf,
    file: File,
    data_start: u64,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The format's own limit on the JSON header.
const MAX_HEADER_BYTES: u64 = 100_000_000;

impl WeightFiles {
    /// Opens `model.safetensors` or the shards of `model.safetensors.index.json` in `folder`.
    pub fn open_folder(folder: &Path) -> Result<Self, Error> {
        let index = folder.join(INDEX);
        if !folder.join(SINGLE).exists() && index.exists() {
            return Self::open_shards(folder, &index);
        }
        let mut opened = Self::open_file(&folder.join(SINGLE))?;
        opened.path = folder.to_owned();
        Ok(opened)
    }

    /// Opens a single file.
    pub fn open_file(path: &Path) -> Result<Self, Error> {
        let file = WeightFile::open(path)?;
        let unread = file
            .metadata
            .offset_keys()
            .into_iter()
            .map(|name| (name, 0))
            .collect();
        Ok(Self {
            path: path.to_owned(),
            files: vec![file],
            unread,
        })
    }

    fn open_shards(folder: &Path, index: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(index).map_err(Error::io("read", index))?;
        let map: ShardIndex = serde_json::from_str(&text).map_err(Error::json(index))?;
        let mut names: Vec<&String> = map.weight_map.values().collect();
        names.sort();
        names.dedup();
        let open = |name: &&String| WeightFile::open(&folder.join(name));
        let files = names.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let mut unread = BTreeMap::new();
        for (shard, file) in files.iter().enumerate() {
            for name in file.metadata.offset_keys() {
                let listed = map.weight_map.get(&name);
                if listed != Some(names[shard]) {
                    let listed = listed.map_or("nowhere", String::as_str);
                    let reason =
                        format!("it holds tensor {name}, which the index places in {listed}");
                    return Err(file.invalid(reason));
                }
                unread.insert(name, shard);
            }
        }
        if let Some((name, shard)) = map
            .weight_map
            .iter()
            .find(|(name, _)| !unread.contains_key(*name))
        {
            let (path, name) = (folder.join(shard), name.clone());
            let reason = format!("tensor {name} is missing, which the index places here");
            return Err(Error::Safetensors { path, reason });
        }
        Ok(Self {
            path: folder.to_owned(),
            files,
            unread,
        })
    }

    /// Names of the tensors not read yet, sorted.
    pub fn names(&self) -> Vec<String> {
        self.unread.keys().cloned().collect()
    }

    /// Forgets `name`, so that [`finish`](Self::finish) does not count it as unexpected.
    pub fn skip(&mut self, name: &str) {
        self.unread.remove(name);
    }

    /// Takes tensor `name`, which must have `shape`, as f32.
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let Some(file) = self.unread.remove(name) else {
            let (path, name) = (self.path.clone(), name.to_owned());
            return Err(Error::MissingTensor {
                path,
                name,
                expected: shape.to_vec(),
            });
        };
        self.files[file].read(name, shape)
    }

    /// Shape of tensor `name`, if it is there and unread.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        let file = &self.files[*self.unread.get(name)?];
        file.metadata.info(name).map(|info| info.shape.as_slice())
    }

    /// Refuses tensors nobody asked for.
    pub fn finish(self) -> Result<(), Error> {
        match self.unread.into_iter().next() {
            None => Ok(()),
            Some((name, file)) => {
                let path = self.files[file].path.clone();
                Err(Error::UnexpectedTensor { path, name })
            }
        }
    }
}

impl WeightFile {
    fn open(path: &Path) -> Result<Self, Error> {
        let mut file = File::open(path).map_err(Error::io("read", path))?;
        let invalid = |reason: String| Error::Safetensors {
            path: path.to_owned(),
            reason,
        };
        let length = file.metadata().map_err(Error::io("read", path))?.len();
        if length < 8 {
            return Err(invalid(format!(
                "it has {length} bytes: expected at least the 8 of the header length"
            )));
        }
        let mut prefix = [0; 8];
        file.read_exact(&mut prefix)
            .map_err(Error::io("read", path))?;
        let header = u64::from_le_bytes(prefix);
        if header > MAX_HEADER_BYTES || header > length - 8 {
            let reason = format!(
                "the header length is {header}: expected at most {}",
                (length - 8).min(MAX_HEADER_BYTES)
            );
            return Err(invalid(reason));
        }
        let mut json = Vec::new();
        file.by_ref()
            .take(header)
            .read_to_end(&mut json)
            .map_err(Error::io("read", path))?;
        // Deserialising checks shapes, types and that offsets follow one another without a gap.
        let parsed =
            serde_json::from_slice(&json).map_err(|source| invalid(format!("header: {source}")));
        let metadata: Metadata = parsed?;
        let (found, expected) = (length - 8 - header, metadata.data_len() as u64);
        if found != expected {
            return Err(invalid(format!(
                "it holds {found} bytes of tensors: the header describes {expected}"
            )));
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            data_start: 8 + header,
            metadata,
        })
    }

    fn invalid(&self, reason: String) -> Error {
        Error::Safetensors {
            path: self.path.clone(),
            reason,
        }
    }

    fn read(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let (path, tensor) = (self.path.clone(), name.to_owned());
        let Some(info) = self.metadata.info(name) else {
            return Err(Error::MissingTensor {
                path,
                name: tensor,
                expected: shape.to_vec(),
            });
        };
        if info.shape != shape {
            let (expected, found) = (shape.to_vec(), info.shape.clone());
            return Err(Error::TensorShape {
                path,
                name: tensor,
                expected,
                found,
            });
        }
        let (dtype, (start, end)) = (info.dtype, info.data_offsets);
        let mut bytes = vec![0; end - start];
        let seek = self
            .file
            .seek(SeekFrom::Start(self.data_start + start as u64));
        seek.and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(Error::io("read", &path))?;
        match dtype {
            Dtype::F32 => Ok(decode(&bytes, f32::from_le_bytes)),
            Dtype::F16 => Ok(decode(&bytes, |two| half::f16::from_le_bytes(two).to_f32())),
            Dtype::BF16 => Ok(decode(&bytes, |two| {
                half::bf16::from_le_bytes(two).to_f32()
            })),
            other => Err(Error::TensorType {
                path,
                name: tensor,
                found: format!("{other:?}"),
            }),
        }
    }
}

fn decode<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (numbers, _) = bytes.as_chunks::<N>();
    numbers.iter().map(|bytes| number(*bytes)).collect()
}

/// The number type in which weights are kept or written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightType {
    /// 32 bits: what training starts from.
    #[default]
    F32,
    /// The upper half of those.
    Bf16,
    /// 16 bits with more digits and a smaller range (65,504): to compute with, not to train.
    F16,
}

impl WeightType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

    /// The name in settings and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// The name in config.json.
    pub(crate) fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }
}

impl std::fmt::Display for WeightType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for WeightType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let named = Self::ALL.into_iter().find(|one| one.name() == text);
        named.ok_or_else(|| Error::Setting {
            key: "number type",
            found: text.to_owned(),
            expected: "f32, bf16 or f16",
        })
    }
}

/// A tensor to be written.
pub(crate) struct NamedTensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

struct Encoded<'a> {
    tensor: &'a NamedTensor,
    weight_type: WeightType,
}

impl safetensors::View for Encoded<'_> {
    fn dtype(&self) -> Dtype {
        match self.weight_type {
            WeightType::F32 => Dtype::F32,
            WeightType::Bf16 => Dtype::BF16,
            WeightType::F16 => Dtype::F16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        let values = self.tensor.values.iter();
        match self.weight_type {
            WeightType::F32 => values.flat_map(|value| value.to_le_bytes()).collect(),
            WeightType::Bf16 => values
                .flat_map(|&value| half::bf16::from_f32(value).to_le_bytes())
                .collect(),
            WeightType::F16 => values
                .flat_map(|&value| half::f16::from_f32(value).to_le_bytes())
                .collect(),
        }
    }

    fn data_len(&self) -> usize {
        let bytes = match self.weight_type {
            WeightType::F32 => 4,
            WeightType::Bf16 | WeightType::F16 => 2,
        };
        self.tensor.values.len() * bytes
    }
}

/// Writes `tensors` to `path`: beside it first, then renamed, so that a file under that name is
/// whole.
pub(crate) fn write_weights(
    path: &Path,
    tensors: &[NamedTensor],
    weight_type: WeightType,
) -> Result<(), Error> {
    let views = tensors.iter().map(|tensor| {
        (
            tensor.name.as_str(),
            Encoded {
                tensor,
                weight_type,
            },
        )
    });
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(views, Some(format), path).map_err(|source| match source {
        safetensors::SafeTensorError::IoError(source) => Error::io("write", path)(source),
        other => Error::Safetensors {
            path: path.to_owned(),
            reason: other.to_string(),
        },
    })?;
    readable_by_all(path)
}

/// The temporary file behind safetensors' writer is private to its owner; a model is not.
fn readable_by_all(path: &Path) -> Result<(), Error> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let readable = fs::Permissions::from_mode(0o644);
        fs::set_permissions(path, readable).map_err(Error::io("write", path))?;
    }
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(Error::io("write", path))
}
