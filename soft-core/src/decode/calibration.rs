//! How often the full model agrees with an exit that is so sure: learnt while decoding.
//!
//! An exit's own probability says little before it is compared with what came of it. Knows neither model nor tokens.

/// Accepted share by confidence, in bins of one tenth.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Calibration([Bin; BINS]);

#[derive(Clone, Copy, Debug, Default)]
struct Bin {
    accepted: f64,
    checked: f64,
}

const BINS: usize = 10;
/// Checks that the exit's own opinion is worth.
const TRUST: f64 = 4.0;
/// Observations are forgotten slowly: the text changes.
const MEMORY: f64 = 0.998;

impl Calibration {
    /// The chance that a token drafted with this confidence, 0 to 1, is accepted.
    pub fn chance(&self, confidence: f64) -> f64 {
        let bin = &self.0[bin(confidence)];
        (bin.accepted + TRUST * confidence) / (bin.checked + TRUST)
    }

    /// Learns from a token of this confidence: accepted (1), not (0), or how likely it would have been.
    pub fn learn(&mut self, confidence: f64, accepted: f64) {
        for bin in &mut self.0 {
            bin.accepted *= MEMORY;
            bin.checked *= MEMORY;
        }
        let bin = &mut self.0[bin(confidence)];
        bin.accepted += accepted;
        bin.checked += 1.0;
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
