//! Construction of a LLaMA from its tensors, for loading and random initialization.
//!
//! Every tensor is requested by its Hugging Face name from a source, a file or a random generator.

use burn::module::Param;
use burn::tensor::Tensor;
use soft_core::Exit;
use soft_core::random::SplitMix64;

use crate::error::Error;
use crate::model::block::{Block, BlockSource, Halves, ProjectionSpec};
use crate::model::config::LlamaConfig;
use crate::model::exit_blocks::{ExitBlock, ExitBlocks};
use crate::model::exit_heads::ExitHeads;
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
        Some(walk.head("lm_head", [config.vocab, d_model])?)
    };
    let embed_tokens = Embedding {
        weight: walk.matrix("model.embed_tokens.weight", [config.vocab, d_model])?,
    };
    let layers = (0..config.n_layers)
        .map(|layer| {
            let prefix = format!("model.layers.{layer}");
            walk.block(&config, (layer, Halves::Both), &prefix)
        })
        .collect::<Result<_, _>>()?;
    let norm = walk.norm("model.norm", d_model, config.norm_eps)?;
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

/// Adds heads of single exits from `source`, each with the name it has there.
pub(crate) fn construct_exit_heads(
    mut llama: Llama,
    named: Vec<(Exit, String)>,
    source: &mut impl WeightSource,
) -> Result<Llama, Error> {
    let place = llama.placement();
    let shape = [llama.config.vocab, llama.config.d_model];
    let mut walk = Walk {
        source,
        place: &place,
    };
    let heads = named.iter().map(|(_, name)| walk.head(name, shape));
    let heads = heads.collect::<Result<_, _>>()?;
    let exits = named.into_iter().map(|(exit, _)| exit).collect();
    llama.exit_heads = ExitHeads { heads, exits };
    Ok(llama)
}

/// The parts of an exit, and the names under which a source has them.
pub(crate) struct ExitParts {
    pub exit: Exit,
    /// The prefix of the block's names, and what it consists of; `None` for an exit without one.
    pub block: Option<(String, Halves)>,
    /// The name of the norm.
    pub norm: String,
}

/// Adds blocks and norms of single exits from `source`.
pub(crate) fn construct_exit_blocks(
    mut llama: Llama,
    parts: Vec<ExitParts>,
    source: &mut impl WeightSource,
) -> Result<Llama, Error> {
    let place = llama.placement();
    let mut walk = Walk {
        source,
        place: &place,
    };
    let config = &llama.config;
    let exits = parts.iter().map(|parts| parts.exit).collect();
    let own = |parts: ExitParts| {
        let which = |halves| (parts.exit.depth(), halves);
        let block = parts
            .block
            .map(|(prefix, halves)| walk.block(config, which(halves), &prefix));
        Ok::<_, Error>(ExitBlock {
            block: block.transpose()?,
            norm: walk.norm(&parts.norm, config.d_model, config.norm_eps)?,
        })
    };
    let blocks = parts.into_iter().map(own).collect::<Result<_, _>>()?;
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

    fn vector(&mut self, name: &str, width: usize) -> Result<Param<Tensor<1>>, Error> {
        let values = self.source.values(name, &[width])?;
        Ok(Param::from_tensor(self.place.put(values, [width])))
    }

    fn head(&mut self, name: &str, [vocab, d_model]: [usize; 2]) -> Result<Projection, Error> {
        let weight = self.matrix(&format!("{name}.weight"), [vocab, d_model])?;
        Ok(Projection::without_bias(weight))
    }

    fn norm(&mut self, name: &str, width: usize, eps: f64) -> Result<RmsNorm, Error> {
        let weight = self.vector(&format!("{name}.weight"), width)?;
        Ok(RmsNorm { weight, eps })
    }

    fn block(
        &mut self,
        config: &LlamaConfig,
        which: (usize, Halves),
        prefix: &str,
    ) -> Result<Block, Error> {
        let mut layers = LayersAt {
            walk: self,
            config,
            prefix,
        };
        Block::build(config, which, &mut layers)
    }
}

/// The layers of the block whose names begin with `prefix`.
struct LayersAt<'a, 'w, S> {
    walk: &'a mut Walk<'w, S>,
    config: &'a LlamaConfig,
    prefix: &'a str,
}

impl<S: WeightSource> BlockSource for LayersAt<'_, '_, S> {
    type Error = Error;

    fn projection(&mut self, spec: &ProjectionSpec) -> Result<Projection, Error> {
        let shape @ [d_out, _] = (spec.shape)(self.config);
        let name = format!("{}.{}", self.prefix, spec.path);
        let weight = self.walk.matrix(&format!("{name}.weight"), shape)?;
        let bias = match (spec.has_bias)(&self.config.architecture) {
            true => Some(self.walk.vector(&format!("{name}.bias"), d_out)?),
            false => None,
        };
        Ok(Projection { weight, bias })
    }

    fn norm(&mut self, path: &str, width: usize) -> Result<RmsNorm, Error> {
        let name = format!("{}.{path}", self.prefix);
        self.walk.norm(&name, width, self.config.norm_eps)
    }
}

impl Llama {
    /// A model with random weights: matrices are normal with the config's `initializer_range`,
    /// norms are 1, biases 0. A seed gives the same weights on every device.
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
    fn values(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let count = shape.iter().product();
        Ok(match shape.len() {
            1 if name.ends_with(".bias") => vec![0.0; count],
            // The weight of a norm.
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
