//! What the examples share: progress bars, tables, a tiny world to talk about.

pub mod progress;
pub mod table;
pub mod tiny_world;
