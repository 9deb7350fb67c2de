//! How often the full model agrees with an exit at a given confidence, learned while decoding.
//!
//! An exit's probability is not calibrated, so it is compared with the share of accepted tokens.

/// Discounted counts of verified and of accepted tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Share {
    pub accepted: f64,
    pub checked: f64,
}

impl Share {
    /// Adds a token: 1 if accepted, 0 if not, or the probability of its acceptance.
    pub fn add(&mut self, accepted: f64) {
        self.accepted += accepted;
        self.checked += 1.0;
    }

    pub fn forget(&mut self, memory: f64) {
        self.accepted *= memory;
        self.checked *= memory;
    }
}

/// Share of accepted tokens by confidence, in bins of one tenth.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Calibration([Share; BINS]);

const BINS: usize = 10;
/// Weight of the exit's own probability, in observations.
const TRUST: f64 = 4.0;
/// Discount of earlier observations, since the text changes.
const MEMORY: f64 = 0.998;

impl Calibration {
    /// The probability that a token drafted with this confidence, 0 to 1, is accepted.
    pub fn chance(&self, confidence: f64) -> f64 {
        let Share { accepted, checked } = self.0[bin(confidence)];
        (accepted + TRUST * confidence) / (checked + TRUST)
    }

    /// Adds the result of a token of this confidence.
    pub fn learn(&mut self, confidence: f64, accepted: f64) {
        self.0.iter_mut().for_each(|share| share.forget(MEMORY));
        self.0[bin(confidence)].add(accepted);
    }
}

fn bin(confidence: f64) -> usize {
    ((confidence * BINS as f64) as usize).min(BINS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_believed_until_it_is_known() {
        let mut calibration = Calibration::default();
        assert_eq!(calibration.chance(0.85), 0.85);
        for _ in 0..200 {
            calibration.learn(0.87, 0.0);
            calibration.learn(1.0, 1.0);
        }
        assert!(calibration.chance(0.85) < 0.05);
        assert!(calibration.chance(0.95) > 0.95);
        assert_eq!(calibration.chance(0.25), 0.25);
    }
}
