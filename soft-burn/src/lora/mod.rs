//! Low-rank adapters: a frozen weight W becomes W + α/r · B·A, and only A and B are trained.
//!
//! An [`Adapter`] is stored apart from the model. It is initialized, attached, merged into the
//! weights and removed again, and saved in PEFT's format. Training does not form the product B·A:
//! states are multiplied by A, then by B.
//!
//! Source: Hu et al., *LoRA* (arXiv 2106.09685). Names, files and initial values follow PEFT (A
//! uniform within 1/√d_in, B zero, so that the output is unchanged at first). Burn's `LoraAdapter`
//! computes `a · b` for a weight `[d_in, d_out]`; ours are `[d_out, d_in]`, so its `a` is PEFT's
//! `lora_B` and its `b` is `lora_A`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use soft_core::random::SplitMix64;

use crate::error::Error;
use crate::model::block::{PROJECTIONS, ProjectionSpec};
use crate::model::config::LlamaConfig;
use crate::model::init::uniform;

pub(crate) mod adapter;
mod attach;
mod factors;
mod peft;
#[cfg(all(test, feature = "flex"))]
mod tests;

pub use adapter::Adapter;
pub(crate) use attach::LORA;
use factors::Factors;

/// Which weights are adapted, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// Rank r of the adapters.
    pub rank: usize,
    /// α: the product of the factors is scaled by α / r. Default 16.
    #[serde(default = "sixteen")]
    pub alpha: f64,
    /// Adapted weights of a block: `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj`,
    /// `down_proj`. Default: all.
    #[serde(default = "all_targets")]
    pub targets: Vec<String>,
    /// Adapted blocks, counted from 0. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<usize>>,
    /// Seed of the initial values.
    #[serde(default)]
    pub seed: u64,
}

/// Larger than the width of any weight.
const MAX_RANK: usize = 1 << 16;

fn sixteen() -> f64 {
    16.0
}

fn all_targets() -> Vec<String> {
    PROJECTIONS.iter().map(|it| it.target.to_owned()).collect()
}

impl Lora {
    /// Adapters of this rank on every projection of every block, α = 16.
    pub fn new(rank: usize) -> Self {
        Self {
            rank,
            alpha: sixteen(),
            targets: all_targets(),
            layers: None,
            seed: 0,
        }
    }

    /// Checks the settings without a model.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the setting.
    pub fn validate(&self) -> Result<(), Error> {
        let known = |target: &String| PROJECTIONS.iter().any(|it| it.target == target);
        let unknown = self.targets.iter().find(|target| !known(target));
        let refused = if !(1..=MAX_RANK).contains(&self.rank) {
            Some(("lora rank", self.rank.to_string(), "1 to 65536"))
        } else if !(self.alpha.is_finite() && self.alpha > 0.0) {
            Some(("lora alpha", self.alpha.to_string(), "a number above 0"))
        } else if self.targets.is_empty() || unknown.is_some() {
            let found = unknown.map_or("none".to_owned(), |target| format!("`{target}`"));
            let expected = "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj or down_proj";
            Some(("lora target", found, expected))
        } else if self.layers.as_ref().is_some_and(Vec::is_empty) {
            Some(("lora layers", "none".to_owned(), "at least one block"))
        } else {
            None
        };
        refused.map_or(Ok(()), |(key, found, expected)| {
            Err(Error::Setting {
                key,
                found,
                expected,
            })
        })
    }

    /// Checks the settings for a model of this configuration.
    ///
    /// # Errors
    /// As for [`validate`](Self::validate); a block outside the model; a rank above a width.
    pub fn check_within(&self, config: &LlamaConfig) -> Result<(), Error> {
        self.validate()?;
        let narrowest = self
            .targets
            .iter()
            .flat_map(|target| PROJECTIONS.iter().find(|it| it.target == target))
            .flat_map(|projection| (projection.shape)(config))
            .min();
        if narrowest.is_some_and(|narrowest| self.rank > narrowest) {
            return Err(Error::Setting {
                key: "lora rank",
                found: format!(
                    "{} for a weight of width {}",
                    self.rank,
                    narrowest.unwrap_or(0)
                ),
                expected: "at most the narrowest side of the weights it adapts",
            });
        }
        let depth = config.n_layers;
        match self.layers.iter().flatten().find(|&&layer| layer >= depth) {
            None => Ok(()),
            Some(layer) => Err(Error::Setting {
                key: "lora layers",
                found: format!("block {layer} of a model of {depth}, counted from 0"),
                expected: "blocks of the model",
            }),
        }
    }

    /// Creates an adapter with initial values, which does not change the output of a model.
    ///
    /// # Errors
    /// The same as for [`check_within`](Self::check_within).
    pub fn fresh(&self, config: &LlamaConfig) -> Result<Adapter, Error> {
        self.check_within(config)?;
        let mut numbers = SplitMix64::new(self.seed);
        let mut factors = BTreeMap::new();
        let chosen = |layer: &usize| self.layers.as_ref().is_none_or(|it| it.contains(layer));
        for layer in (0..config.n_layers).filter(chosen) {
            let adapted = |it: &&ProjectionSpec| self.targets.iter().any(|name| name == it.target);
            for ProjectionSpec { path, shape, .. } in PROJECTIONS.iter().filter(adapted) {
                let [d_out, d_in] = shape(config);
                let bound = 1.0 / (d_in as f64).sqrt();
                let drawn = |_| ((2.0 * uniform(&mut numbers) - 1.0) * bound) as f32;
                let a = (0..self.rank * d_in).map(drawn);
                let pair = Factors {
                    a: a.collect(),
                    b: vec![0.0; d_out * self.rank],
                    rank: self.rank,
                    scale: self.alpha / self.rank as f64,
                };
                factors.insert(format!("model.layers.{layer}.{path}"), pair);
            }
        }
        Ok(Adapter {
            rank: self.rank,
            alpha: self.alpha,
            factors,
            whole: BTreeMap::new(),
        })
    }
}
