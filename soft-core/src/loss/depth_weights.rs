//! Weights of the exits as functions of their depth.
//!
//! LayerSkip (Elhoushi et al., arXiv 2404.16710, section 4.1.2) weights the exit after layer l by
//! the sum of 0 to l, since deeper layers predict more easily; torchtune's `early_exit_loss` has
//! this and the other options. Both number layers from 0. Here an exit's depth is its number of
//! blocks, so n is one more, and weights are scaled to sum to 1 over the trained exits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::exit::ExitError;
use crate::exit::{Exit, Exits};
use crate::loss::sorted::{LossSchedule, MicroBatch};

/// The weight of an exit of depth n before scaling to sum 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DepthWeights {
    /// Equal weights: sorted fine-tuning.
    Equal,
    /// n.
    Linear,
    /// 1 + 2 + … + n, as in LayerSkip.
    Quadratic,
    /// √n.
    SquareRoot,
    /// 1 / n, the only option that favors shallow exits.
    Inverse,
}

impl DepthWeights {
    /// All variants.
    pub const ALL: [Self; 5] = [
        Self::Equal,
        Self::Linear,
        Self::Quadratic,
        Self::SquareRoot,
        Self::Inverse,
    ];

    /// Its name: "equal", "linear", "quadratic", "square-root" or "inverse".
    pub fn name(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Linear => "linear",
            Self::Quadratic => "quadratic",
            Self::SquareRoot => "square-root",
            Self::Inverse => "inverse",
        }
    }

    fn of(self, exit: Exit) -> f64 {
        let n = exit.depth() as f64;
        match self {
            Self::Equal => 1.0,
            Self::Linear => n,
            Self::Quadratic => n * (n + 1.0) / 2.0,
            Self::SquareRoot => n.sqrt(),
            Self::Inverse => n.recip(),
        }
    }
}

impl LossSchedule for DepthWeights {
    fn weights(&self, exits: &Exits, _at: MicroBatch) -> Vec<f64> {
        let weights: Vec<f64> = exits.iter().map(|exit| self.of(exit)).collect();
        let sum: f64 = weights.iter().sum();
        weights.into_iter().map(|weight| weight / sum).collect()
    }
}

impl fmt::Display for DepthWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DepthWeights {
    type Err = ExitError;

    fn from_str(name: &str) -> Result<Self, ExitError> {
        let found = Self::ALL.into_iter().find(|weights| weights.name() == name);
        found.ok_or_else(|| ExitError::NoSuchWeights {
            found: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_those_of_the_formulas() {
        let exits = Exits::new([1, 4, 9]).unwrap();
        let of = |weights: DepthWeights| weights.weights(&exits, MicroBatch::default());
        let close = |found: Vec<f64>, parts: [f64; 3]| {
            let sum: f64 = parts.iter().sum();
            let mut pairs = found.iter().zip(parts);
            assert!(
                pairs.all(|(found, part)| (found - part / sum).abs() < 1e-15),
                "{found:?}"
            );
        };
        close(of(DepthWeights::Equal), [1.0, 1.0, 1.0]);
        close(of(DepthWeights::Linear), [1.0, 4.0, 9.0]);
        close(of(DepthWeights::Quadratic), [1.0, 10.0, 45.0]);
        close(of(DepthWeights::SquareRoot), [1.0, 2.0, 3.0]);
        close(of(DepthWeights::Inverse), [1.0, 0.25, 1.0 / 9.0]);
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for weights in DepthWeights::ALL {
            assert_eq!(weights.name().parse(), Ok(weights));
            let json = serde_json::to_string(&weights).unwrap();
            assert_eq!(json, format!("{:?}", weights.name()));
        }
        let refused = "cubic".parse::<DepthWeights>().unwrap_err().to_string();
        assert!(
            refused.contains("cubic") && refused.contains("square-root"),
            "{refused}"
        );
    }
}
