//! Frequencies of the rotary position embedding and their scaling for longer contexts.
//!
//! Source: transformers' `modeling_rope_utils`. The rotation is in `ops::rope`.

use serde_json::{Value, json};

use crate::model::rope_keys::{RopeProblem, positive};
use crate::model::yarn::Yarn;
use crate::ops::rope::Rotary;

/// Scaling of the rotary frequencies for texts longer than in pre-training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// No scaling.
    None,
    /// All frequencies are divided by one factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Dynamic NTK: nothing within `max_positions`, which texts cannot exceed here.
    Dynamic {
        /// The factor for longer texts.
        factor: f64,
    },
    /// YaRN.
    Yarn(Yarn),
    /// LLaMA 3: low frequencies are divided, high ones are kept, with a ramp in between.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths above the original context divided by this are scaled.
        low_freq_factor: f64,
        /// Wavelengths below the original context divided by this are kept.
        high_freq_factor: f64,
        /// Context length of pre-training.
        original_max_positions: usize,
    },
}

impl RopeScaling {
    /// Reads `rope_scaling` or `rope_parameters`.
    pub(crate) fn from_json(
        rope: Option<&Value>,
        max_positions: usize,
    ) -> Result<Self, RopeProblem> {
        let Some(rope) = rope.filter(|rope| !rope.is_null()) else {
            return Ok(Self::None);
        };
        if !rope.is_object() {
            return Err(RopeProblem {
                key: "rope_scaling",
                found: rope.to_string(),
                expected: "an object or null",
            });
        }
        let mut settings = rope.as_object().into_iter().flatten();
        if let Some((_, nested)) = settings.find(|(_, value)| value.is_object()) {
            return Err(RopeProblem {
                key: "rope_scaling",
                found: nested.to_string(),
                expected: "settings for all blocks, not by type of block",
            });
        }
        let whole = |value: &Value| value.as_f64() == Some(1.0) || value.is_null();
        if let Some(part) = rope
            .get("partial_rotary_factor")
            .filter(|part| !whole(part))
        {
            return Err(RopeProblem {
                key: "partial_rotary_factor",
                found: part.to_string(),
                expected: "1: heads are rotated as a whole",
            });
        }
        let kind = rope.get("rope_type").or_else(|| rope.get("type"));
        let number = |key| positive(rope, key);
        let scaling = match kind.and_then(Value::as_str).unwrap_or("default") {
            "default" => Self::None,
            "linear" => Self::Linear {
                factor: number("factor")?,
            },
            "dynamic" => Self::Dynamic {
                factor: number("factor")?,
            },
            "yarn" => Self::Yarn(Yarn::from_json(rope, max_positions)?),
            "llama3" => {
                let key = "original_max_position_embeddings";
                Self::Llama3 {
                    factor: number("factor")?,
                    low_freq_factor: number("low_freq_factor")?,
                    high_freq_factor: number("high_freq_factor")?,
                    original_max_positions: match rope.get(key) {
                        Some(_) => number(key)? as usize,
                        None => max_positions,
                    },
                }
            }
            other => {
                return Err(RopeProblem {
                    key: "rope_type",
                    found: other.to_owned(),
                    expected: "default, linear, dynamic, yarn or llama3",
                });
            }
        };
        Ok(scaling)
    }

    /// Returns an error for factors that are not positive and for a llama3 ramp that does not rise.
    pub(crate) fn check(self) -> Result<(), RopeProblem> {
        let positive = |key, value: f64| {
            let good = value.is_finite() && value > 0.0;
            let problem = || RopeProblem {
                key,
                found: value.to_string(),
                expected: "a positive number",
            };
            if good { Ok(()) } else { Err(problem()) }
        };
        match self {
            Self::None => Ok(()),
            Self::Linear { factor } | Self::Dynamic { factor } => positive("factor", factor),
            Self::Yarn(yarn) => {
                positive("factor", yarn.factor)?;
                positive("beta_slow", yarn.beta_slow)?;
                positive("beta_fast - beta_slow", yarn.beta_fast - yarn.beta_slow)?;
                positive(
                    "original_max_position_embeddings",
                    yarn.original_max_positions as f64,
                )
            }
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_positions,
            } => {
                positive("factor", factor)?;
                positive("low_freq_factor", low_freq_factor)?;
                positive(
                    "original_max_position_embeddings",
                    original_max_positions as f64,
                )?;
                // The ramp divides by this difference.
                positive(
                    "high_freq_factor - low_freq_factor",
                    high_freq_factor - low_freq_factor,
                )
            }
        }
    }

    pub(crate) fn to_json(self) -> Value {
        match self {
            Self::None => Value::Null,
            Self::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
            Self::Dynamic { factor } => json!({ "rope_type": "dynamic", "factor": factor }),
            Self::Yarn(yarn) => yarn.to_json(),
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_positions,
            } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_positions,
            }),
        }
    }

    fn scale(self, frequency: f32) -> f32 {
        match self {
            Self::None | Self::Dynamic { .. } | Self::Yarn(_) => frequency,
            Self::Linear { factor } => frequency / factor as f32,
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_positions,
            } => {
                let context = original_max_positions as f32;
                let wavelength = 2.0 * std::f32::consts::PI / frequency;
                let (low, high) = (low_freq_factor as f32, high_freq_factor as f32);
                if wavelength > context / low {
                    frequency / factor as f32
                } else if wavelength < context / high {
                    frequency
                } else {
                    let smooth = (context / wavelength - low) / (high - low);
                    (1.0 - smooth) * frequency / factor as f32 + smooth * frequency
                }
            }
        }
    }
}

/// The rotary frequencies of a head.
pub(crate) fn rotary(head_dim: usize, theta: f64, scaling: &RopeScaling) -> Rotary {
    if let RopeScaling::Yarn(yarn) = scaling {
        return yarn.rotary(head_dim, theta);
    }
    let frequency = |pair: usize| {
        let exponent = (2 * pair) as f32 / head_dim as f32;
        scaling.scale(1.0 / (theta as f32).powf(exponent))
    };
    (0..head_dim / 2).map(frequency).collect::<Vec<_>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_keeps_high_frequencies_and_divides_low_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 16,
        };
        assert_eq!(scaling.scale(3.0), 3.0); // wavelength 2.1 < 16 / 4
        assert_eq!(scaling.scale(0.1), 0.1 / 8.0); // wavelength 63 > 16
        let between = scaling.scale(0.8); // wavelength 7.85
        assert!(between > 0.1 && between < 0.8, "{between}");
    }

    #[test]
    fn unknown_rope_type_is_refused() {
        let rope = json!({ "rope_type": "longrope", "factor": 4.0 });
        assert!(RopeScaling::from_json(Some(&rope), 16).is_err());
        let missing = json!({ "rope_type": "llama3", "factor": 4.0 });
        assert!(RopeScaling::from_json(Some(&missing), 16).is_err());
        assert!(RopeScaling::from_json(Some(&Value::Null), 16).is_ok());
    }
}
