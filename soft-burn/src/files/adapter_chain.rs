//! Finds the weights and adapters of a model folder, which may itself be a PEFT adapter.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::Error;
use crate::files::folder::{exists, read_json};
use crate::files::safetensors::WeightFiles;

/// Subfolder with an adapter for the weights beside it.
pub(crate) const ADAPTER: &str = "adapter";

const ADAPTER_CONFIG: &str = "adapter_config.json";

/// The adapters of a model folder, in the order in which they are applied to its weights.
pub(crate) fn adapters(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    Ok(chain(folder)?.1)
}

/// The folder of the weights: `folder`, or its base model if `folder` holds only an adapter.
///
/// # Errors
/// [`Error::AdapterAlone`] when the base model is not a local folder.
pub(crate) fn weights_folder(folder: &Path) -> Result<PathBuf, Error> {
    Ok(chain(folder)?.0)
}

/// The folders that determine a model: `folder`, that of its weights, and those of its adapters.
///
/// # Errors
/// As for loading the model: an adapter whose base model is not a local folder.
pub fn model_folders(folder: impl AsRef<Path>) -> Result<Vec<PathBuf>, Error> {
    let folder = folder.as_ref();
    let (weights, adapters) = chain(folder)?;
    let mut folders = vec![folder.to_owned()];
    for other in std::iter::once(weights).chain(adapters) {
        if !folders.contains(&other) {
            folders.push(other);
        }
    }
    Ok(folders)
}

/// Maximum length of a chain of adapters; a longer one is taken for a cycle.
const MOST_BASES: usize = 8;

/// The folder of the weights, and the adapters for them, innermost first.
fn chain(folder: &Path) -> Result<(PathBuf, Vec<PathBuf>), Error> {
    let mut folder = folder.to_owned();
    let mut adapters = Vec::new();
    loop {
        let (within, config) = (folder.join(ADAPTER), folder.join(ADAPTER_CONFIG));
        let has = |name: &str| exists(&folder.join(name));
        match (exists(&within)?, exists(&config)?) {
            (true, true) => {
                let reason = format!(
                    "{} and {} are both adapters",
                    within.display(),
                    config.display()
                );
                let module = "model".to_owned();
                return Err(Error::AdapterMismatch { module, reason });
            }
            (true, false) => adapters.push(within),
            // transformers also accepts an adapter beside the weights.
            (false, true) => adapters.push(folder.clone()),
            (false, false) => {}
        }
        if !exists(&config)? || has("config.json")? && WeightFiles::are_in(&folder)? {
            adapters.reverse();
            return Ok((folder, adapters));
        }
        let found: Value = read_json(&config)?;
        let base = found.get("base_model_name_or_path");
        let base = base.and_then(Value::as_str).map(str::to_owned);
        let is_model = |base: &Path| {
            let files = ["config.json", ADAPTER_CONFIG];
            files.iter().any(|file| base.join(file).is_file())
        };
        match &base {
            Some(next) if is_model(Path::new(next)) && adapters.len() < MOST_BASES => {
                folder = next.into();
            }
            _ => return Err(Error::AdapterAlone { folder, base }),
        }
    }
}
