//! One safetensors file. Header length, JSON, offsets and file size are checked before a tensor is
//! read. Source: the safetensors format.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use safetensors::{Dtype, tensor::Metadata};

use crate::error::Error;
use crate::files::folder::open_regular;

/// Maximum header size of the safetensors format.
const MAX_HEADER_BYTES: u64 = 100_000_000;

#[derive(Debug)]
pub(super) struct WeightFile {
    pub path: PathBuf,
    file: File,
    data_start: u64,
    pub metadata: Metadata,
}

impl WeightFile {
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut file = open_regular(path)?;
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
        // Deserializing checks shapes, types and that the offsets are contiguous.
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

    pub fn invalid(&self, reason: String) -> Error {
        Error::Safetensors {
            path: self.path.clone(),
            reason,
        }
    }

    pub fn read(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
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
        let mut bytes = Vec::new();
        let room = bytes.try_reserve_exact(end - start);
        room.map_err(|_| Error::io("read", &path)(std::io::ErrorKind::OutOfMemory.into()))?;
        bytes.resize(end - start, 0);
        let seek = self
            .file
            .seek(SeekFrom::Start(self.data_start + start as u64));
        seek.and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(Error::io("read", &path))?;
        let values = match dtype {
            Dtype::F32 => decode(&bytes, f32::from_le_bytes),
            Dtype::F16 => decode(&bytes, |two| half::f16::from_le_bytes(two).to_f32()),
            Dtype::BF16 => decode(&bytes, |two| half::bf16::from_le_bytes(two).to_f32()),
            other => {
                return Err(Error::TensorType {
                    path,
                    name: tensor,
                    found: format!("{other:?}"),
                });
            }
        };
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(index) => Err(Error::DamagedTensor {
                path,
                name: tensor,
                value: values[index],
                index,
            }),
        }
    }
}

fn decode<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (numbers, _) = bytes.as_chunks::<N>();
    numbers.iter().map(|bytes| number(*bytes)).collect()
}
