//! The error type of this crate. Messages say what failed, what was expected and what was found.

use std::path::PathBuf;

use soft_core::model::CacheError;
use soft_core::policy::PolicyError;
use soft_core::{BatchError, ExitError};
use thiserror::Error;

use crate::dtype::DType;

/// A failure of soft-burn.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The device's backend is not compiled into this build.
    #[error("device {name:?} needs the cargo feature `{feature}`, which this build is without; it has {}", expected.join(", "))]
    NotCompiled {
        /// The device name.
        name: String,
        /// The cargo feature.
        feature: &'static str,
        /// Device names of this build.
        expected: Vec<&'static str>,
    },
    /// The hardware does not exist.
    #[error("device {name:?} does not exist: found {}", if found.is_empty() { "none of its kind".to_owned() } else { found.join(", ") })]
    NoSuchDevice {
        /// The device name.
        name: String,
        /// Devices found for this backend.
        found: Vec<String>,
    },
    /// The hardware is there, but a first operation fails on it.
    #[error("device {name:?} cannot compute: {reason}")]
    DeviceFails {
        /// The device name.
        name: String,
        /// What its backend says.
        reason: String,
    },
    /// An unknown device name.
    #[error("device {name:?} is not available: expected one of {}", expected.join(", "))]
    Device {
        /// The name given.
        name: String,
        /// Names accepted by this build.
        expected: Vec<&'static str>,
    },
    /// A compute server cannot be reached or refuses the connection.
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
        /// The attempted action: "read", "write", ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        reason: std::io::Error,
    },
    /// The output folder already exists.
    #[error("{} is there already: name a new folder, or remove it first", path.display())]
    OutputExists {
        /// The folder.
        path: PathBuf,
    },
    /// Another process is writing to the output folder.
    #[error("{} is in use: another process works on it", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The files of a checkpoint contradict each other.
    #[error("{}: {reason}: the checkpoint is damaged; remove its folder to go on from an earlier one", path.display())]
    DamagedCheckpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A JSON file is malformed or lacks a field.
    #[error("{}: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What serde found, with line and column.
        reason: serde_json::Error,
    },
    /// The list of draft tokens is empty or has tokens outside the model's vocabulary.
    #[error("{}: expected token ids below {vocab}, found {found}", path.display())]
    DraftTokens {
        /// The file.
        path: PathBuf,
        /// Vocabulary size of the model.
        vocab: usize,
        /// The first invalid token, or "none" for an empty list.
        found: String,
    },
    /// The exit probes are for another model.
    #[error("{}: {source}", path.display())]
    ExitProbes {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        source: PolicyError,
    },
    /// config.json describes a model that this library does not support.
    #[error("{}: {key} is {found}: expected {expected}", path.display())]
    Config {
        /// The config file.
        path: PathBuf,
        /// The key at fault.
        key: &'static str,
        /// Its value.
        found: String,
        /// Accepted values.
        expected: String,
    },
    /// A malformed safetensors file.
    #[error("{} is not a valid safetensors file: {reason}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor required by the configuration is missing.
    #[error("{}: tensor {name} is missing: expected shape {expected:?}", path.display())]
    MissingTensor {
        /// File or folder searched.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape according to the configuration.
        expected: Vec<usize>,
    },
    /// A folder without safetensors weights.
    #[error("{}: expected model.safetensors or model.safetensors.index.json, found {found}: {advice}", folder.display())]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// What the folder contains instead.
        found: String,
        /// How to fix it.
        advice: &'static str,
    },
    /// The base model of an adapter folder was not found.
    #[error(
        "{} is a PEFT adapter, not a model: expected its base model {}, found no such folder; put the adapter into the base's folder, as \
         `adapter`",
        folder.display(),
        base.as_deref().unwrap_or("to be named by base_model_name_or_path")
    )]
    AdapterAlone {
        /// The folder.
        folder: PathBuf,
        /// The base model named by the adapter.
        base: Option<String>,
    },
    /// A tensor contains a value that is not finite.
    #[error("{}: tensor {name} holds {value} at {index}: the file is damaged, or training had failed", path.display())]
    DamagedTensor {
        /// The file that holds it.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The value.
        value: f32,
        /// Its row-major index in the tensor, from 0.
        index: usize,
    },
    /// The shape of a tensor differs from the configuration.
    #[error("{}: tensor {name} has shape {found:?}: expected {expected:?}", path.display())]
    TensorShape {
        /// The file that holds it.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape according to the configuration.
        expected: Vec<usize>,
        /// Its shape in the file.
        found: Vec<usize>,
    },
    /// A tensor has an unsupported number type.
    #[error("{}: tensor {name} holds {found}: expected F32, F16 or BF16", path.display())]
    TensorType {
        /// The file that holds it.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its number type.
        found: String,
    },
    /// A tensor that the model does not use.
    #[error(
        "{}: tensor {name} belongs to no part of a model of this configuration{}",
        path.display(),
        if name.ends_with(".bias") { ", which has no bias there" } else { "" }
    )]
    UnexpectedTensor {
        /// The file that holds it.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// An exit that cannot become a model of its own.
    #[error(
        "exit {exit} has half a block of its own (nested_llama with exit_attention or exit_mlp): it is decoded in the whole \
         model only, since no ordinary model ends in such a block"
    )]
    HalfBlock {
        /// Depth of the exit.
        exit: usize,
    },
    /// A model that Balcony's form has no place for.
    #[error("the model cannot be written as nested_llama: {reason}")]
    NestedForm {
        /// What stands in the way.
        reason: String,
    },
    /// A tensor could not be read back from the device.
    #[error("cannot read tensor {name} from the device: {reason}")]
    Read {
        /// The tensor.
        name: String,
        /// The backend's message.
        reason: String,
    },
    /// The logits of the next token are not finite.
    #[error("the scores of the next token are not finite: the model's weights are damaged")]
    ScoresNotFinite,
    /// Exits that do not fit the model.
    #[error(transparent)]
    Exits(#[from] ExitError),
    /// A batch that does not fit the model.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A range of blocks outside the model.
    #[error("blocks {start}..{end} of a model of {depth} blocks")]
    NoSuchBlocks {
        /// First block requested.
        start: usize,
        /// One past the last.
        end: usize,
        /// The model's depth.
        depth: usize,
    },
    /// A cache capacity above the model's maximum number of positions.
    #[error("a cache of {capacity} positions: the model was made for {most}")]
    CacheBeyondModel {
        /// Positions requested.
        capacity: usize,
        /// Maximum of the model.
        most: usize,
    },
    /// A pass does not fit its cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Token rows that are empty or of unequal length.
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
    /// A number type that the device does not support.
    #[error("{device} does not compute in {found}: expected {}", expected.iter().map(|one| one.name()).collect::<Vec<_>>().join(", "))]
    NumberType {
        /// The requested type.
        found: DType,
        /// The device.
        device: String,
        /// Supported types.
        expected: Vec<DType>,
    },
    /// A setting outside its range.
    #[error("{key} is {found}: expected {expected}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// Its value.
        found: String,
        /// Accepted values.
        expected: &'static str,
    },
    /// The loss is not finite.
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
    /// A gradient is not finite.
    #[error(
        "step {step}: the gradient of {tensor} is not finite (losses: {losses}); {}",
        last_checkpoint(checkpoint)
    )]
    GradientNotFinite {
        /// The optimizer step, counted from 1.
        step: u64,
        /// The first such tensor, in order of names.
        tensor: String,
        /// The losses of that step at each exit, all of them finite.
        losses: String,
        /// Step of the newest checkpoint on disk, if there is one.
        checkpoint: Option<u64>,
    },
    /// A device stopped responding during a step.
    #[error("device {device} failed: {reason}; {}", last_checkpoint(checkpoint))]
    DeviceLost {
        /// The device.
        device: String,
        /// The backend's message.
        reason: String,
        /// Step of the newest checkpoint on disk, if there is one.
        checkpoint: Option<u64>,
    },
    /// A device ran out of memory.
    #[error(
        "device {device} ran out of memory: {reason}; smaller batches with more accumulation take less; {}",
        last_checkpoint(checkpoint)
    )]
    OutOfMemory {
        /// The device.
        device: String,
        /// The backend's message, with sizes.
        reason: String,
        /// Step of the newest checkpoint on disk, if there is one.
        checkpoint: Option<u64>,
    },
    /// The device computes something else than the CPU.
    #[error(
        "step {step}: {what} is {found} on this device, {expected} on the CPU; {}",
        last_checkpoint(checkpoint)
    )]
    WrongResults {
        /// The optimizer step, counted from 1.
        step: u64,
        /// The value that was compared.
        what: String,
        /// On the device of the model.
        found: f64,
        /// On the CPU.
        expected: f64,
        /// Step of the newest checkpoint on disk, if there is one.
        checkpoint: Option<u64>,
    },
    /// A weight is not finite; such a model is not written.
    #[error(
        "step {step}: tensor {tensor} holds a weight that is not finite; {}",
        last_checkpoint(checkpoint)
    )]
    WeightsNotFinite {
        /// Optimizer steps completed.
        step: u64,
        /// The tensor.
        tensor: String,
        /// Step of the newest checkpoint on disk, if there is one.
        checkpoint: Option<u64>,
    },
    /// The stream of training batches failed.
    #[error("cannot read training data: {0}")]
    Data(Box<dyn std::error::Error + Send + Sync>),
    /// An optimizer batch without supervised tokens.
    #[error("step {step}: the batches hold no supervised token")]
    NothingToLearn {
        /// The optimizer step, counted from 1.
        step: u64,
    },
    /// A run cannot be resumed.
    #[error("cannot resume from {}: {reason}", path.display())]
    Resume {
        /// The run's folder.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
}

fn last_checkpoint(step: &Option<u64>) -> String {
    match step {
        Some(step) => format!("the last good checkpoint is step {step}"),
        None => "there is no checkpoint yet".to_owned(),
    }
}

impl Error {
    pub(crate) fn with_checkpoint(mut self, newest: Option<u64>) -> Self {
        if let Self::LossNotFinite { checkpoint, .. }
        | Self::GradientNotFinite { checkpoint, .. }
        | Self::DeviceLost { checkpoint, .. }
        | Self::OutOfMemory { checkpoint, .. }
        | Self::WrongResults { checkpoint, .. }
        | Self::WeightsNotFinite { checkpoint, .. } = &mut self
        {
            *checkpoint = newest;
        }
        self
    }
}
