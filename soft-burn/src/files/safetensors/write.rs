//! Writes tensors to a safetensors file in a given number type.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;

use safetensors::Dtype;

use crate::dtype::DType;
use crate::error::Error;

pub(crate) struct NamedTensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

struct Encoded<'a> {
    tensor: &'a NamedTensor,
    dtype: DType,
}

impl safetensors::View for Encoded<'_> {
    fn dtype(&self) -> Dtype {
        match self.dtype {
            DType::F32 => Dtype::F32,
            DType::Bf16 => Dtype::BF16,
            DType::F16 => Dtype::F16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        let values = self.tensor.values.iter();
        match self.dtype {
            DType::F32 => values.flat_map(|value| value.to_le_bytes()).collect(),
            DType::Bf16 => values
                .flat_map(|&value| half::bf16::from_f32(value).to_le_bytes())
                .collect(),
            DType::F16 => values
                .flat_map(|&value| half::f16::from_f32(value).to_le_bytes())
                .collect(),
        }
    }

    fn data_len(&self) -> usize {
        let bytes = match self.dtype {
            DType::F32 => 4,
            DType::Bf16 | DType::F16 => 2,
        };
        self.tensor.values.len() * bytes
    }
}

/// Writes `tensors` to a temporary file and renames it to `path`.
pub(crate) fn write_weights(
    path: &Path,
    tensors: &[NamedTensor],
    dtype: DType,
) -> Result<(), Error> {
    let views = tensors
        .iter()
        .map(|tensor| (tensor.name.as_str(), Encoded { tensor, dtype }));
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

/// safetensors writes a temporary file that only its owner can read; model files are public.
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
