//! Means of measured times, which are noisy, drift, and have outliers.

/// A running mean that discounts earlier observations.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mean {
    value: f64,
    weight: f64,
}

/// Effective number of observations.
const WINDOW: f64 = 8.0;
/// Observations above this multiple of the expected value are clipped.
pub(crate) const OUTLIER: f64 = 3.0;

impl Mean {
    /// Adds an observation, clipped relative to the mean with `guess`; returns the clipped value.
    pub fn learn(&mut self, value: f64, guess: f64) -> f64 {
        let value = value.min(OUTLIER * self.near(guess));
        self.weight = (self.weight + 1.0).min(WINDOW);
        self.value += (value - self.value) / self.weight;
        value
    }

    /// The mean, with a guess that counts as one observation.
    pub fn near(&self, guess: f64) -> f64 {
        (self.value * self.weight + guess) / (self.weight + 1.0)
    }

    /// The mean; 0 before the first observation.
    pub fn value(&self) -> f64 {
        self.value
    }

    /// Discounts earlier observations by this factor.
    pub fn forget(&mut self, memory: f64) {
        self.weight *= memory;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guess_counts_as_one_observation() {
        let mut mean = Mean::default();
        assert_eq!(mean.near(4.0), 4.0);
        assert_eq!(mean.learn(2.0, 4.0), 2.0);
        assert_eq!((mean.value(), mean.near(4.0)), (2.0, 3.0));
        mean.forget(0.0);
        assert_eq!(mean.near(4.0), 4.0);
    }

    #[test]
    fn outliers_are_not_believed() {
        let mut mean = Mean::default();
        assert_eq!(mean.learn(100.0, 1.0), 3.0);
        for _ in 0..20 {
            mean.learn(1.0, 1.0);
        }
        assert!(mean.near(1.0) < 1.2);
    }
}
