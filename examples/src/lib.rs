//! What the examples share: progress bars, tables, a tiny world to talk about.

pub mod progress;
pub mod table;
pub mod tiny_world;

/// The README's Rust code, compiled as a documentation test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
