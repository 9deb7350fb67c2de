//! Construction of a LLaMA from its tensors, for loading and random initialization.
//!
//! Every tensor is requested by its Hugging Face name from a source, a file or a random generator.

use burn::module::Param;
use burn::tensor::Tensor;
use soft_core::Exits;
use soft_core::random::SplitMix64;

use crate::error::Error;
use crate::model::block::{Block, ProjectionSpec};
use crate::model::config::LlamaConfig;
use crate::model::exit_blocks::{EXIT_BLOCKS, ExitBlock, ExitBlocks};
use crate::model::exit_heads::{EXIT_HEADS, ExitHeads};
use crate::model::layers::{Embedding, Projection, RmsNorm};
use crate::model::llama::{Body, Llama};
use crate::model::placement::Placement;

/// A source of weights: maps `(name, shape)` to values, row-major.
pub(crate) trait WeightSource {
    fn values(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error>;
}

pub(crate) fn construct(
    config: LlamaConfig,
    source: &mut impl WeightSource,
    place: &Placement,
) -> Result<Llama, Error> {
    place.check()?;
    let mut walk = Walk { source, place };
    let d_model = config.d_model;
    let lm_head = if config.tied {
        None
    } else {
        Some(walk.projection("lm_head", config.vocab, d_model)?)
    };
    let embed_tokens = Embedding {
        weight: walk.matrix("model.embed_tokens.weight", [config.vocab, d_model])?,
    };
    let layers = (0..config.n_layers)
        .map(|layer| walk.block(&config, &format!("model.layers.{layer}")))
        .collect::<Result<_, _>>()?;
    let norm = walk.norm("model.norm", &config)?;
    let model = Body {
        embed_tokens,
        layers,
        norm,
    };
    Ok(Llama {
        model,
        lm_head,
        exit_heads: ExitHeads::none(),
        exit_blocks: ExitBlocks::none(),
        config,
    })
}

/// Adds heads of single exits from `source`, named `exit_heads.{depth}.weight`.
pub(crate) fn construct_exit_heads(
    mut llama: Llama,
    exits: &Exits,
    source: &mut impl WeightSource,
) -> Result<Llama, Error> {
    let place = llama.placement();
    let (vocab, d_model) = (llama.config.vocab, llama.config.d_model);
    let exits: Vec<_> = exits.iter().collect();
    let mut walk = Walk {
        source,
        place: &place,
    };
    let head =
        |exit: &soft_core::Exit| walk.projection(&format!("{EXIT_HEADS}{exit}"), vocab, d_model);
    let heads = exits.iter().map(head).collect::<Result<_, _>>()?;
    llama.exit_heads = ExitHeads { heads, exits };
    Ok(llama)
}

/// Adds blocks of single exits from `source`, named `exit_blocks.{depth}`.
pub(crate) fn construct_exit_blocks(
    mut llama: Llama,
    exits: &Exits,
    source: &mut impl WeightSource,
) -> Result<Llama, Error> {
    let place = llama.placement();
    let exits: Vec<_> = exits.iter().collect();
    let mut walk = Walk {
        source,
        place: &place,
    };
    let own = |exit: &soft_core::Exit| {
        let name = format!("{EXIT_BLOCKS}{exit}");
        Ok::<_, Error>(ExitBlock {
            block: walk.block(&llama.config, &format!("{name}.block"))?,
            norm: walk.norm(&format!("{name}.norm"), &llama.config)?,
        })
    };
    let blocks = exits.iter().map(own).collect::<Result<_, _>>()?;
    llama.exit_blocks = ExitBlocks { blocks, exits };
    Ok(llama)
}

struct Walk<'a, S> {
    source: &'a mut S,
    place: &'a Placement,
}

impl<S: WeightSource> Walk<'_, S> {
    fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<Param<Tensor<2>>, Error> {
        let values = self.source.values(name, &shape)?;
        Ok(Param::from_tensor(self.place.put(values, shape)))
    }

    fn projection(&mut self, name: &str, d_out: usize, d_in: usize) -> Result<Projection, Error> {
        let weight = self.matrix(&format!("{name}.weight"), [d_out, d_in])?;
        Ok(Projection { weight })
    }

    fn norm(&mut self, name: &str, config: &LlamaConfig) -> Result<RmsNorm, Error> {
        let values = self
            .source
            .values(&format!("{name}.weight"), &[config.d_model])?;
        let weight = Param::from_tensor(self.place.put(values, [config.d_model]));
        Ok(RmsNorm {
            weight,
            eps: config.norm_eps,
        })
    }

    fn block(&mut self, config: &LlamaConfig, prefix: &str) -> Result<Block, Error> {
        let norms = [
            self.norm(&format!("{prefix}.input_layernorm"), config)?,
            self.norm(&format!("{prefix}.post_attention_layernorm"), config)?,
        ];
        Block::build(config, norms, |ProjectionSpec { path, shape, .. }| {
            let [d_out, d_in] = shape(config);
            self.projection(&format!("{prefix}.{path}"), d_out, d_in)
        })
    }
}

impl Llama {
    /// A model with random weights: matrices are normal with the config's `initializer_range`,
    /// norms are 1. A seed gives the same weights on every device.
    ///
    /// # Errors
    /// When the configuration is invalid, or the device does not compute in the number type.
    pub fn random(
        config: LlamaConfig,
        seed: u64,
        place: impl Into<Placement>,
    ) -> Result<Self, Error> {
        config.validate()?;
        let deviation = config.initializer_range as f32;
        construct(
            config,
            &mut Normal {
                random: SplitMix64::new(seed),
                deviation,
            },
            &place.into(),
        )
    }
}

/// Uniform in (0, 1].
pub(crate) fn uniform(random: &mut SplitMix64) -> f64 {
    ((random.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64
}

/// Normal random numbers by the Box-Muller transform, each from two uniform ones.
struct Normal {
    random: SplitMix64,
    deviation: f32,
}

/// Minimum number of values per thread.
const SHARE: usize = 1 << 20;

impl Normal {
    fn next(&mut self) -> f32 {
        let radius = (-2.0 * uniform(&mut self.random).ln()).sqrt();
        let angle = 2.0 * std::f64::consts::PI * uniform(&mut self.random);
        (radius * angle.cos()) as f32 * self.deviation
    }

    /// The next `count` numbers, drawn in parallel. They do not depend on the number of threads.
    fn many(&mut self, count: usize) -> Vec<f32> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = count.div_ceil(threads).max(SHARE);
        let mut values = vec![0.0; count];
        std::thread::scope(|scope| {
            for (index, share_of_values) in values.chunks_mut(share).enumerate() {
                let mut normal = Normal {
                    random: self.random.skip(2 * index * share),
                    deviation: self.deviation,
                };
                scope.spawn(move || share_of_values.fill_with(|| normal.next()));
            }
        });
        self.random = self.random.skip(2 * count);
        values
    }
}

impl WeightSource for Normal {
    fn values(&mut self, _name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let count = shape.iter().product();
        // Only norm weights are one-dimensional.
        Ok(match shape.len() {
            1 => vec![1.0; count],
            _ => self.many(count),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_of_one_go() {
        let fresh = || Normal {
            random: SplitMix64::new(7),
            deviation: 0.5,
        };
        let (mut shared, mut one_go) = (fresh(), fresh());
        let count = 2 * SHARE + 3;
        let wanted: Vec<f32> = (0..count).map(|_| one_go.next()).collect();
        assert!(shared.many(count) == wanted);
        assert_eq!(shared.next(), one_go.next());
    }
}
