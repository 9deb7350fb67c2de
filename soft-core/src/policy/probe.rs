//! Learned exit probes: linear classifiers of hidden states.
//!
//! A probe predicts from the state of a token at an exit whether the exit's token is the full
//! model's. It costs one dot product, where a score costs a head. Sources: the early-exit
//! classifier of CALM (Schuster et al., arXiv 2207.07061, section 3.5), trained on agreement;
//! linear classifiers of intermediate states, Alain & Bengio, arXiv 1610.01644.

use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::policy::error::PolicyError;

/// A logistic regression on the state at one exit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitProbe {
    /// The exit.
    pub exit: Exit,
    /// The constant term.
    pub bias: f32,
    /// One weight per component of a state.
    pub weights: Vec<f32>,
}

impl ExitProbe {
    /// The probability, 0 to 1, that the exit's token for this state, `[d_model]`, is the full
    /// model's.
    pub fn probability(&self, state: &[f32]) -> f32 {
        let logit = f64::from(self.bias) + dot(&self.weights, state) / rms(state);
        (1.0 / (1.0 + (-logit).exp())) as f32
    }
}

/// A state divided by its root mean square, as probes see it.
pub fn probe_features(state: &[f32]) -> Vec<f32> {
    let rms = rms(state);
    let features = state.iter().map(|&value| (f64::from(value) / rms) as f32);
    features.collect()
}

fn rms(state: &[f32]) -> f64 {
    let mean = dot(state, state) / state.len() as f64;
    // A state of zeros stays one.
    mean.sqrt().max(f64::MIN_POSITIVE)
}

/// The cosine similarity of two states.
pub fn cosine_similarity(a: &[f32], b: &[f32]) -> f32 {
    (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()) as f32
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    let products = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
    products.sum()
}

/// The probes of a model's early exits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExitProbes(Vec<ExitProbe>);

impl ExitProbes {
    /// At most one probe per exit.
    pub fn new(probes: Vec<ExitProbe>) -> Self {
        Self(probes)
    }

    /// The probe of `exit`.
    pub fn at(&self, exit: Exit) -> Option<&ExitProbe> {
        self.0.iter().find(|probe| probe.exit == exit)
    }

    /// Checks that the probes are for states of `d_model` components, and finite.
    ///
    /// # Errors
    /// [`PolicyError::ProbeWidth`], [`PolicyError::ProbeNotFinite`].
    pub fn check(&self, d_model: usize) -> Result<(), PolicyError> {
        let infinite = |probe: &&ExitProbe| {
            let mut numbers = probe.weights.iter().chain([&probe.bias]);
            numbers.any(|number| !number.is_finite())
        };
        if let Some(probe) = self.0.iter().find(infinite) {
            let exit = probe.exit.depth();
            return Err(PolicyError::ProbeNotFinite { exit });
        }
        let other = self.0.iter().find(|probe| probe.weights.len() != d_model);
        other.map_or(Ok(()), |probe| {
            Err(PolicyError::ProbeWidth {
                exit: probe.exit.depth(),
                found: probe.weights.len(),
                expected: d_model,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_by_hand_do_not_depend_on_the_scale_of_states() {
        let probe = ExitProbe {
            exit: Exit::new(1).unwrap(),
            bias: 0.5,
            weights: vec![1.0, -2.0],
        };
        // The root mean square of (3, 1) is the square root of 5.
        let logit = 0.5 + (3.0 - 2.0) / 5f64.sqrt();
        let expected = 1.0 / (1.0 + (-logit).exp());
        for scale in [1.0, 100.0] {
            let found = probe.probability(&[3.0 * scale, scale]);
            assert!((f64::from(found) - expected).abs() < 1e-6);
        }
        let features = probe_features(&[30.0, 10.0]);
        let sum = f64::from(features[0] - 2.0 * features[1]);
        assert!((0.5 + sum - logit).abs() < 1e-6);
        assert!(probe.probability(&[0.0, 0.0]).is_finite());
    }

    #[test]
    fn cosines_by_hand() {
        assert_eq!(cosine_similarity(&[3.0, 4.0], &[8.0, 6.0]), 0.96);
    }

    #[test]
    fn probes_of_another_width_or_beyond_numbers_are_refused() {
        let probe = |bias| ExitProbe {
            exit: Exit::new(2).unwrap(),
            bias,
            weights: vec![0.0; 4],
        };
        let check = |bias, width| {
            let checked = ExitProbes::new(vec![probe(bias)]).check(width);
            checked.map_err(|error| error.to_string())
        };
        assert_eq!(check(0.5, 4), Ok(()));
        assert!(check(0.5, 3).unwrap_err().contains("expected 3"));
        assert!(check(f32::INFINITY, 4).unwrap_err().contains("exit 2"));
    }
}
