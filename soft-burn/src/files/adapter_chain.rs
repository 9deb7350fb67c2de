//! Where the weights of a folder are, when it or one of its bases is an adapter.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::Error;
use crate::files::folder::{exists, read_json};
use crate::files::safetensors::WeightFiles;

/// The folder of an adapter, beside the weights it is for.
pub(crate) const ADAPTER: &str = "adapter";

/// What makes a folder an adapter's.
const ADAPTER_CONFIG: &str = "adapter_config.json";

/// The adapters of a model folder, in the order in which they are put onto its weights.
pub(crate) fn adapters(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    Ok(chain(folder)?.1)
}

/// Where the weights are: in `folder`, or in that of the base model where `folder` holds an adapter
/// only.
///
/// # Errors
/// [`Error::AdapterAlone`] when the base is no folder here.
pub(crate) fn weights_folder(folder: &Path) -> Result<PathBuf, Error> {
    Ok(chain(folder)?.0)
}

/// Bases that are adapters themselves; more can only be a circle.
const MOST_BASES: usize = 8;

/// The folder with the weights, and the adapters for them, outermost last.
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
            // As transformers takes it, beside the weights or without.
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
