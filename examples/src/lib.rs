//! Shared code of `soft`, the examples and the benchmarks: models, prompts and decoding settings
//! from the command line, evaluations, progress bars, tables, and a small invented world to train
//! on.

pub mod calibration;
pub mod decoding;
pub mod device;
pub mod device_profile;
pub mod eval_model;
pub mod evaluation;
pub mod hub;
pub mod kernels;
pub mod model;
pub mod policy;
pub mod progress;
pub mod prompts;
pub mod recipe;
pub mod speed;
pub mod table;
pub mod tensorboard;
pub mod terminal;
pub mod tiny_world;
pub mod tokens;

/// The README's Rust code, as a documentation test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

/// The Rust code of the page on evaluation.
#[cfg(doctest)]
#[doc = include_str!("../../docs/evaluation.md")]
pub struct Evaluation;

/// The Rust code of the page on decoding.
#[cfg(doctest)]
#[doc = include_str!("../../docs/decoding.md")]
pub struct Decoding;
