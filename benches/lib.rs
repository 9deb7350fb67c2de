//! What the benchmarks share: the shape they measure. `cargo bench` runs `training_step.rs` and `decoding.rs`.

use soft_burn::{LlamaConfig, RopeScaling};

/// The shape of SmolLM2-135M.
pub fn smollm2() -> LlamaConfig {
    LlamaConfig {
        vocab: 49_152,
        d_model: 576,
        d_feed_forward: 1536,
        n_layers: 30,
        n_heads: 9,
        n_kv_heads: 3,
        head_dim: 64,
        norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        max_positions: 2048,
        tied: true,
        initializer_range: 0.02,
        other: Default::default(),
    }
}
