//! LLaMA on [Burn](https://burn.dev) with exits at any depth, trained with the sorted loss.
//!
//! Loads a Hugging Face folder, fine-tunes it so that several of its depths can be used as models
//! of their own, and saves a folder that transformers loads. The same code runs on every Burn
//! backend; [`device`](device()) selects one by name at run time.
//!
//! ```
//! use soft_burn::{Llama, LlamaConfig, Method, RopeScaling, TrainSettings, Trainer, device};
//! use soft_core::{Batch, DecodeModel, Example, Exits, NestedModel};
//!
//! // Four blocks with fresh weights; `Llama::from_pretrained(folder, &device)` loads a model.
//! let config = LlamaConfig {
//!     vocab: 32, d_model: 16, d_feed_forward: 32, n_layers: 4, n_heads: 4, n_kv_heads: 2,
//!     head_dim: 4, norm_eps: 1e-5, rope_theta: 10_000.0, rope_scaling: RopeScaling::None,
//!     max_positions: 64, tied: true, initializer_range: 0.02,
//!     architecture: Default::default(), other: Default::default(),
//! };
//! let device = device("cpu")?;
//! let model = Llama::random(config, 42, &device)?;
//!
//! // Every sub-model has logits of its own: [batch, seq, vocab].
//! let exits: Exits = "2,4".parse()?;
//! let tokens = model.tokens(&[vec![1, 2, 3]])?;
//! for exit in exits.iter() {
//!     assert_eq!(model.sub_model(&tokens, exit)?.dims(), [1, 3, 32]);
//! }
//!
//! // One loss trains all of them.
//! let mut trainer = Trainer::new(model, TrainSettings::new(Method::soft(), exits, 10))?;
//! let batch = Batch::from_examples(&[&Example::text(vec![1, 2, 3])])?;
//! let losses = trainer.validate(&[batch])?;
//! assert_eq!(losses.len(), 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod allocation;
mod decode;
mod device;
mod device_errors;
mod device_profile;
mod dtype;
mod error;
mod files;
mod io;
mod lora;
mod model;
mod ops;
#[cfg(all(test, feature = "flex"))]
mod tests;
mod train;

pub use allocation::keep_freed_memory;
pub use burn;
pub use decode::decode_model::DraftHead;
pub use device::{device, device_names, devices, list_devices};
pub use device_errors::out_of_memory;
pub use device_profile::{DeviceProfile, DeviceWork};
pub use dtype::DType;
pub use error::Error;
pub use files::adapter_chain::model_folders;
pub use io::decoding_defaults::DecodingDefaults;
pub use io::draft_tokens::{draft_tokens, save_draft_tokens};
pub use io::exit_probes::{exit_probes, save_exit_probes};
pub use io::pretrained::{CompanionFile, SaveOptions, SoftInfo};
pub use lora::{Adapter, Lora};
pub use model::architecture::{Architecture, ModelType, SlidingWindow};
pub use model::config::{LlamaConfig, SpecialTokens};
pub use model::llama::Llama;
pub use model::placement::Placement;
pub use model::rope::RopeScaling;
pub use model::yarn::Yarn;
pub use ops::compilation::{compiled_kernels, keep_kernels};
pub use ops::kv_store::KvStore;
pub use train::balance::Balance;
pub use train::combination::Combination;
pub use train::flat_settings::FlatSettings;
pub use train::layer_dropout::LayerDropout;
pub use train::log::LogLine;
pub use train::method::{
    BodyOptions, Curriculum, Distillation, ExitOptions, Method, MethodName, SampledPerBatch,
    SoftOptions, TrainedWeights, Weights,
};
pub use train::optimizer::AdamWSettings;
pub use train::run::{Run, RunData};
pub use train::run_settings::RunSettings;
pub use train::schedule::{Decay, Schedule};
pub use train::settings::{Objective, TrainSettings};
pub use train::targets::Targets;
pub use train::trainer::{ExitLoss, StepReport, Trainer};
