//! LLaMA on [Burn](https://burn.dev), cut at any depth and trained with the sorted loss.
//!
//! Load a Hugging Face folder, fine-tune it so that several of its depths are models of their own, save
//! it as a folder that transformers loads. The same code runs on every Burn backend; a
//! [`device`](device()) is chosen by name at run time.
//!
//! ```
//! use soft_burn::{Llama, LlamaConfig, Method, RopeScaling, TrainSettings, Trainer, device};
//! use soft_core::{Batch, DecodeModel, Example, Exits, NestedModel};
//!
//! // A model of four blocks with fresh weights; `Llama::from_pretrained(folder, &device)` loads one.
//! let config = LlamaConfig {
//!     vocab: 32, d_model: 16, d_feed_forward: 32, n_layers: 4, n_heads: 4, n_kv_heads: 2,
//!     head_dim: 4, norm_eps: 1e-5, rope_theta: 10_000.0, rope_scaling: RopeScaling::None,
//!     max_positions: 64, tied: true, initializer_range: 0.02, other: Default::default(),
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
//! // And one loss trains them all.
//! let mut trainer = Trainer::new(model, TrainSettings::new(Method::Soft, exits, 10))?;
//! let batch = Batch::from_examples(&[&Example::text(vec![1, 2, 3])], 0)?;
//! let losses = trainer.validate(&[batch])?;
//! assert_eq!(losses.len(), 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(all(
    test,
    feature = "flex",
    any(
        feature = "ndarray",
        feature = "wgpu",
        feature = "vulkan",
        feature = "metal",
        feature = "cuda",
        feature = "tch"
    )
))]
mod accelerators;
mod accumulation;
mod attention;
mod balance;
mod cache;
mod checkpoints;
mod config;
mod construct;
mod data_parallel;
mod decode;
mod device;
mod draft_tokens;
mod error;
mod exit_blocks;
mod extract;
mod folder;
#[cfg(all(test, feature = "flex"))]
mod golden;
mod head_loss;
mod heads;
#[cfg(feature = "flex")]
mod kernels;
#[cfg(all(test, feature = "flex"))]
mod laws;
mod layer_dropout;
mod layers;
mod log;
mod lora;
mod loss;
mod memory;
mod model;
#[cfg(all(test, feature = "flex"))]
mod number_types;
mod objective;
#[cfg(feature = "flex")]
mod on_host;
mod optimizer;
mod packed;
mod parameters;
mod placement;
mod precision;
mod pretrained;
mod rope;
mod run;
mod schedule;
mod setting_checks;
mod settings;
mod tensor_store;
#[cfg(all(test, feature = "flex"))]
mod testing;
mod trained_parts;
mod trainer;
mod training_pass;
mod weights;

pub use balance::{Balance, SharedHead};
pub use burn;
pub use cache::Cache;
pub use config::{LlamaConfig, SpecialTokens};
pub use decode::DraftHead;
pub use device::{device, device_names, devices, list_devices};
pub use draft_tokens::{draft_tokens, save_draft_tokens};
pub use error::Error;
pub use layer_dropout::LayerDropout;
pub use log::LogLine;
pub use lora::{Adapter, Lora};
pub use loss::Targets;
pub use memory::out_of_memory;
pub use model::Llama;
pub use objective::Objective;
pub use optimizer::AdamWSettings;
pub use placement::Placement;
pub use pretrained::{CompanionFile, SaveOptions, SoftInfo};
pub use rope::RopeScaling;
pub use run::{Run, RunData, RunSettings};
pub use schedule::{Decay, Schedule};
pub use settings::{Curriculum, Distillation, Method, SampledPerBatch, TrainSettings, Weights};
pub use trainer::{ExitLoss, StepReport, Trainer};
pub use weights::WeightType;

/// The README's examples, so that they stay true.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
