//! What the benchmarks share: the shapes they measure and the rows they train on. `cargo bench`
//! runs `training_step.rs` and `decoding.rs`; `on_device.rs` is for GPUs.

use soft_burn::{LlamaConfig, RopeScaling};
use soft_core::{Batch, BatchStream, Example, StreamPosition};

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
        architecture: soft_burn::Architecture::default(),
        other: Default::default(),
    }
}

/// Small enough that what a step takes beside its arithmetic shows.
pub fn tiny() -> LlamaConfig {
    LlamaConfig {
        vocab: 218,
        d_model: 96,
        d_feed_forward: 256,
        n_layers: 15,
        n_heads: 6,
        n_kv_heads: 6,
        head_dim: 16,
        ..smollm2()
    }
}

/// The shape of LLaMA 2 7B, of which the paper's models are made.
pub fn llama2_7b() -> LlamaConfig {
    LlamaConfig {
        vocab: 32_000,
        d_model: 4096,
        d_feed_forward: 11_008,
        n_layers: 32,
        n_heads: 32,
        n_kv_heads: 32,
        head_dim: 128,
        max_positions: 4096,
        tied: false,
        ..smollm2()
    }
}

/// The shape of LLaMA 2 13B.
pub fn llama2_13b() -> LlamaConfig {
    LlamaConfig {
        d_model: 5120,
        d_feed_forward: 13_824,
        n_layers: 40,
        n_heads: 40,
        n_kv_heads: 40,
        ..llama2_7b()
    }
}

/// So many rows of so many tokens, learnt from a position on.
///
/// # Errors
/// When nothing is learnt.
pub fn batch((rows, length): (usize, usize), learnt: usize, vocab: usize) -> anyhow::Result<Batch> {
    let row = |row: usize| {
        let token = |position: usize| ((row * 31 + position * 7) % vocab) as u32;
        let tokens = (0..length).map(token).collect();
        Example::new(tokens, (0..length).map(|at| at >= learnt).collect())
    };
    let rows = (0..rows).map(row).collect::<Result<Vec<_>, _>>()?;
    Ok(Batch::from_examples(&rows.iter().collect::<Vec<_>>())?)
}

/// The same batch for ever.
pub struct Same(pub Batch);

impl BatchStream for Same {
    type Error = std::convert::Infallible;

    fn next_batch(&mut self) -> Result<Batch, Self::Error> {
        Ok(self.0.clone())
    }

    fn position(&self) -> StreamPosition {
        StreamPosition::default()
    }

    fn seek(&mut self, _position: StreamPosition) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// The middle of several numbers.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (upper, lower) = (values.len() / 2, values.len().saturating_sub(1) / 2);
    let middle = values.get(lower).zip(values.get(upper));
    middle.map_or(f64::NAN, |(lower, upper)| f64::midpoint(*lower, *upper))
}
