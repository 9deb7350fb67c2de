//! YaRN: rotary frequencies for longer texts, interpolated where a pair turns seldom.
//!
//! Source: Peng et al., YaRN (arXiv 2309.00071); transformers' `_compute_yarn_parameters`.

use serde_json::{Value, json};

use crate::model::rope_keys::{RopeProblem, positive};
use crate::ops::rope::Rotary;

/// Settings of YaRN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    /// Pairs that turn seldom are slowed down by this factor.
    pub factor: f64,
    /// Context length of pre-training.
    pub original_max_positions: usize,
    /// Pairs that turn more often than this within the original context are kept. Default 32.
    pub beta_fast: f64,
    /// Pairs that turn less often than this are slowed down by the whole factor. Default 1.
    pub beta_slow: f64,
    /// Factor of cosines and sines. Default: 0.1 ln `factor` + 1, or from the next two.
    pub attention_factor: Option<f64>,
    /// With `mscale_all_dim`: the factor is the quotient of 0.1 m ln `factor` + 1 for both.
    pub mscale: Option<f64>,
    /// See `mscale`.
    pub mscale_all_dim: Option<f64>,
    /// Whether the bounds between the pairs are rounded to whole pairs. Default true.
    pub truncate: bool,
}

impl Yarn {
    /// Reads the keys of `rope_scaling` or `rope_parameters`.
    pub(crate) fn from_json(rope: &Value, max_positions: usize) -> Result<Self, RopeProblem> {
        let optional = |key: &'static str| match rope.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => positive(rope, key).map(Some),
        };
        let original = optional("original_max_position_embeddings")?;
        Ok(Self {
            factor: positive(rope, "factor")?,
            original_max_positions: original.map_or(max_positions, |it| it as usize),
            beta_fast: optional("beta_fast")?.unwrap_or(32.0),
            beta_slow: optional("beta_slow")?.unwrap_or(1.0),
            attention_factor: optional("attention_factor")?,
            mscale: optional("mscale")?,
            mscale_all_dim: optional("mscale_all_dim")?,
            truncate: rope
                .get("truncate")
                .and_then(Value::as_bool)
                .unwrap_or(true),
        })
    }

    pub(crate) fn to_json(self) -> Value {
        let mut json = json!({
            "rope_type": "yarn",
            "factor": self.factor,
            "original_max_position_embeddings": self.original_max_positions,
            "beta_fast": self.beta_fast,
            "beta_slow": self.beta_slow,
            "truncate": self.truncate,
        });
        for (key, value) in [
            ("attention_factor", self.attention_factor),
            ("mscale", self.mscale),
            ("mscale_all_dim", self.mscale_all_dim),
        ] {
            if let Some(value) = value {
                json[key] = value.into();
            }
        }
        json
    }

    pub(crate) fn rotary(self, head_dim: usize, theta: f64) -> Rotary {
        let (low, high) = self.bounds(head_dim, theta);
        // As in the reference, so that the ramp does not divide by 0.
        let width = if low == high { 0.001 } else { high - low };
        let frequency = |pair: usize| {
            let power = (theta as f32).powf((2 * pair) as f32 / head_dim as f32);
            let slow = ((pair as f32 - low as f32) / width as f32).clamp(0.0, 1.0);
            1.0 / (self.factor as f32 * power) * slow + 1.0 / power * (1.0 - slow)
        };
        Rotary {
            frequencies: (0..head_dim / 2).map(frequency).collect(),
            scale: self.scale() as f32,
        }
    }

    /// The pairs, as fractions, that turn `beta_fast` and `beta_slow` times in the original
    /// context.
    fn bounds(self, head_dim: usize, theta: f64) -> (f64, f64) {
        let pair = |turns: f64| {
            let wavelength = self.original_max_positions as f64 / turns;
            head_dim as f64 * (wavelength / std::f64::consts::TAU).ln() / (2.0 * theta.ln())
        };
        let (low, high) = (pair(self.beta_fast), pair(self.beta_slow));
        let (low, high) = match self.truncate {
            true => (low.floor(), high.ceil()),
            false => (low, high),
        };
        (low.max(0.0), high.min(head_dim as f64 - 1.0))
    }

    fn scale(self) -> f64 {
        let by = |m: f64| match self.factor > 1.0 {
            true => 0.1 * m * self.factor.ln() + 1.0,
            false => 1.0,
        };
        match (self.attention_factor, self.mscale, self.mscale_all_dim) {
            (Some(factor), _, _) => factor,
            (None, Some(mscale), Some(all)) => by(mscale) / by(all),
            _ => by(1.0),
        }
    }
}
