//! Benchmarks: `cargo bench` runs `training_step.rs`; this library holds nothing.
