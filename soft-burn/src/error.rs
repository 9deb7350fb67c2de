//! The error type of this crate: what, where, expected and found.

use std::path::PathBuf;

use soft_core::model::CacheError;
use soft_core::{BatchError, ExitError};
use thiserror::Error;

use crate::dtype::DType;

/// A failure of soft-burn.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A device of a backend that this build does not have.
    #[error("device {name:?} needs the cargo feature `{feature}`, which this build is without; it has {}", expected.join(", "))]
    NotCompiled {
        /// The name.
        name: String,
        /// The feature.
        feature: &'static str,
        /// Names that this build knows.
        expected: Vec<&'static str>,
    },
    /// Hardware that is not there.
    #[error("device {name:?} does not exist: found {}", if found.is_empty() { "none of its kind".to_owned() } else { found.join(", ") })]
    NoSuchDevice {
        /// The name.
        name: String,
        /// The devices of this backend.
        found: Vec<String>,
    },
    /// A device name that is none.
    #[error("device {name:?} is not available: expected one of {}", expected.join(", "))]
    Device {
        /// The name given.
        name: String,
        /// Names this build accepts.
        expected: Vec<&'static str>,
    },
    /// A compute server that cannot be reached, or refuses.
    #[error("cannot connect to the compute server at {address}: {reason}")]
    Connect {
        /// Its address, as given.
        address: String,
        /// What went wrong.
        reason: String,
    },
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}: {reason}", path.display())]
    Io {
        /// What was tried: "read", "write", ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        reason: std::io::Error,
    },
    /// An output folder is there already and would be overwritten.
    #[error("{} is there already: name a new folder, or remove it first", path.display())]
    OutputExists {
        /// The folder.
        path: PathBuf,
    },
    /// Another process works on an output folder.
    #[error("{} is in use: another process works on it", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A checkpoint whose files contradict each other.
    #[error("{}: {reason}: the checkpoint is damaged; remove its folder to go on from an earlier one", path.display())]
    DamagedCheckpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A JSON file that is malformed or lacks something.
    #[error("{}: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What serde found, with line and column.
        reason: serde_json::Error,
    },
    /// A list of draft tokens that the model does not have.
    #[error("{}: expected token ids below {vocab}, found {found}", path.display())]
    DraftTokens {
        /// The file.
        path: PathBuf,
        /// Number of tokens of the model.
        vocab: usize,
        /// What is there.
        found: String,
    },
    /// A config.json of a model that this library does not compute.
    #[error("{}: {key} is {found}: expected {expected}", path.display())]
    Config {
        /// The config file.
        path: PathBuf,
        /// The key at fault.
        key: &'static str,
        /// What is there.
        found: String,
        /// What would be accepted.
        expected: String,
    },
    /// A file that is no valid safetensors file.
    #[error("{} is not a valid safetensors file: {reason}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor the configuration calls for is absent.
    #[error("{}: tensor {name} is missing: expected shape {expected:?}", path.display())]
    MissingTensor {
        /// File or folder searched.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape by the configuration.
        expected: Vec<usize>,
    },
    /// A folder without safetensors.
    #[error("{}: expected model.safetensors or model.safetensors.index.json, found {found}: {advice}", folder.display())]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// What is there instead.
        found: String,
        /// What to do.
        advice: &'static str,
    },
    /// A folder of an adapter whose base model is not known.
    #[error(
        "{} is a PEFT adapter, not a model: expected its base model {}, found no such folder; put the adapter into the base's folder, as \
         `adapter`",
        folder.display(),
        base.as_deref().unwrap_or("to be named by base_model_name_or_path")
    )]
    AdapterAlone {
        /// The folder.
        folder: PathBuf,
        /// The base that it names.
        base: Option<String>,
    },
    /// A tensor holds a number that is not finite.
    #[error("{}: tensor {name} holds {value} at {index}: the file is damaged, or training had failed", path.display())]
    DamagedTensor {
        /// The file that holds it.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The number.
        value: f32,
        /// Its place in the tensor, row by row from 0.
        index: usize,
    },
    /// A tensor has another shape than the configuration says.
    #[error("{}: tensor {name} has shape {found:?}: expected {expected:?}", path.display())]
    TensorShape {
        /// The file that holds it.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape by the configuration.
        expected: Vec<usize>,
        /// Its shape in the file.
        found: Vec<usize>,
    },
    /// A tensor has a number type that weights do not have.
    #[error("{}: tensor {name} holds {found}: expected F32, F16 or BF16", path.display())]
    TensorType {
        /// The file that holds it.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its number type.
        found: String,
    },
    /// A tensor that no part of the model takes.
    #[error("{}: tensor {name} belongs to no part of a model of this configuration", path.display())]
    UnexpectedTensor {
        /// The file that holds it.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor could not be read back from the device.
    #[error("cannot read tensor {name} from the device: {reason}")]
    Read {
        /// The tensor.
        name: String,
        /// What the backend said.
        reason: String,
    },
    /// The scores of the next token are no finite numbers.
    #[error("the scores of the next token are not finite: the model's weights are damaged")]
    ScoresNotFinite,
    /// Exits that do not fit the model.
    #[error(transparent)]
    Exits(#[from] ExitError),
    /// A batch that does not fit the model.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Blocks that the model does not have.
    #[error("blocks {start}..{end} of a model of {depth} blocks")]
    NoSuchBlocks {
        /// First block asked for.
        start: usize,
        /// One past the last.
        end: usize,
        /// The model's depth.
        depth: usize,
    },
    /// A cache for more positions than the model was made for.
    #[error("a cache of {capacity} positions: the model was made for {most}")]
    CacheBeyondModel {
        /// Positions asked for.
        capacity: usize,
        /// Most that the model was made for.
        most: usize,
    },
    /// A pass that does not fit its cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Rows of tokens that do not make a rectangle.
    #[error("row {row} has {found} tokens: expected {expected}, and at least 1")]
    UnevenRows {
        /// The row at fault.
        row: usize,
        /// Its length.
        found: usize,
        /// Length of the first row.
        expected: usize,
    },
    /// An adapter that does not fit the model.
    #[error("the adapter does not fit {module}: {reason}")]
    AdapterMismatch {
        /// The module at fault.
        module: String,
        /// What does not fit.
        reason: String,
    },
    /// An exit with a block of its own was to be decoded as part of the whole model.
    #[error(
        "exit {exit} has a block of its own (Balcony), whose keys and values no cache of the whole model holds: \
         make it a model of its own with `soft extract`"
    )]
    ExitBlock {
        /// Depth of the exit.
        exit: usize,
    },
    /// A number type that a device does not compute with.
    #[error("{device} does not compute in {found}: expected {}", expected.iter().map(|one| one.name()).collect::<Vec<_>>().join(", "))]
    NumberType {
        /// What was asked for.
        found: DType,
        /// The device.
        device: String,
        /// What it computes in.
        expected: Vec<DType>,
    },
    /// A setting outside its range.
    #[error("{key} is {found}: expected {expected}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// Its value.
        found: String,
        /// What would be accepted.
        expected: &'static str,
    },
    /// A loss that is no finite number.
    #[error(
        "step {step}: the loss at exit {exit} is {value}; {}",
        last_checkpoint(checkpoint)
    )]
    LossNotFinite {
        /// The optimizer step, counted from 1.
        step: u64,
        /// Depth of the exit.
        exit: usize,
        /// The value.
        value: f64,
        /// Step of the newest checkpoint on disk, if there is one.
        checkpoint: Option<u64>,
    },
    /// A gradient that is no finite number.
    #[error(
        "step {step}: the gradient of {tensor} is not finite (losses: {losses}); {}",
        last_checkpoint(checkpoint)
    )]
    GradientNotFinite {
        /// The optimizer step, counted from 1.
        step: u64,
        /// First tensor, in the order of names, whose gradient is not finite.
        tensor: String,
        /// The loss at each exit of that step, finite all of them.
        losses: String,
        /// Step of the newest checkpoint on disk, if there is one.
        checkpoint: Option<u64>,
    },
    /// A device stopped answering in the middle of a step.
    #[error("device {device} failed: {reason}; {}", last_checkpoint(checkpoint))]
    DeviceLost {
        /// The device.
        device: String,
        /// What the backend said.
        reason: String,
        /// Step of the newest checkpoint on disk, if there is one.
        checkpoint: Option<u64>,
    },
    /// A device has not the memory for what was asked of it.
    #[error(
        "device {device} ran out of memory: {reason}; smaller batches with more accumulation take less; {}",
        last_checkpoint(checkpoint)
    )]
    OutOfMemory {
        /// The device.
        device: String,
        /// What the backend said, with sizes.
        reason: String,
        /// Step of the newest checkpoint on disk, if there is one.
        checkpoint: Option<u64>,
    },
    /// A weight that is no finite number: such a model is not written.
    #[error(
        "step {step}: tensor {tensor} holds a weight that is not finite; {}",
        last_checkpoint(checkpoint)
    )]
    WeightsNotFinite {
        /// Optimizer steps done.
        step: u64,
        /// The tensor.
        tensor: String,
        /// Step of the newest checkpoint on disk, if there is one.
        checkpoint: Option<u64>,
    },
    /// The stream of training batches failed.
    #[error("cannot read training data: {0}")]
    Data(Box<dyn std::error::Error + Send + Sync>),
    /// An optimizer batch without anything to learn.
    #[error("step {step}: the batches hold no supervised token")]
    NothingToLearn {
        /// The optimizer step, counted from 1.
        step: u64,
    },
    /// A run cannot be continued as asked.
    #[error("cannot resume from {}: {reason}", path.display())]
    Resume {
        /// The run's folder.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// What an error says about where one can continue from.
fn last_checkpoint(step: &Option<u64>) -> String {
    match step {
        Some(step) => format!("the last good checkpoint is step {step}"),
        None => "there is no checkpoint yet".to_owned(),
    }
}

impl Error {
    /// Says in errors about numbers which checkpoint is the newest on disk.
    pub(crate) fn with_checkpoint(mut self, newest: Option<u64>) -> Self {
        if let Self::LossNotFinite { checkpoint, .. }
        | Self::GradientNotFinite { checkpoint, .. }
        | Self::DeviceLost { checkpoint, .. }
        | Self::OutOfMemory { checkpoint, .. }
        | Self::WeightsNotFinite { checkpoint, .. } = &mut self
        {
            *checkpoint = newest;
        }
        self
    }
}
