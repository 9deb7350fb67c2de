//! Learning rate schedules as pure functions of the step.
//!
//! Linear warm-up, then constant or half a cosine towards 0 (Loshchilov and Hutter, arXiv
//! 1608.03983, without restarts). Differs from transformers' schedulers, whose first step has rate
//! 0 and no effect: here step 1 of w warm-up steps has rate peak / w.

use serde::{Deserialize, Serialize};

/// The learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// Constant at the peak.
    Constant,
    /// Half a cosine from the peak towards 0, which it would reach one step after the last.
    Cosine,
}

/// Warm-up and decay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Highest learning rate.
    pub peak: f64,
    /// Number of warm-up steps.
    pub warmup_steps: u64,
    /// The rate after the warm-up.
    pub decay: Decay,
}

impl Schedule {
    /// The rate at `step`, counted from 1, of `total` steps.
    pub fn rate(&self, step: u64, total: u64) -> f64 {
        if step <= self.warmup_steps {
            return self.peak * step as f64 / self.warmup_steps as f64;
        }
        match self.decay {
            Decay::Constant => self.peak,
            Decay::Cosine => {
                let after = (step - self.warmup_steps - 1) as f64;
                let length = total.saturating_sub(self.warmup_steps).max(1) as f64;
                let progress = (after / length).min(1.0);
                self.peak * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn climbs_then_falls() {
        let schedule = Schedule {
            peak: 2.0,
            warmup_steps: 4,
            decay: Decay::Cosine,
        };
        let rates: Vec<f64> = (1..=12).map(|step| schedule.rate(step, 12)).collect();
        assert_eq!(rates[..5], [0.5, 1.0, 1.5, 2.0, 2.0]);
        assert!((rates[8] - 1.0).abs() < 1e-12); // half-way down
        assert!(
            rates[11] > 0.0 && rates[11] < 0.1,
            "the last step still learns"
        );
        assert!(rates[4..].windows(2).all(|pair| pair[0] > pair[1]));
        assert_eq!(
            Schedule {
                warmup_steps: 0,
                ..schedule
            }
            .rate(1, 1),
            2.0
        );
    }

    #[test]
    fn constant_stays() {
        let schedule = Schedule {
            peak: 2.0,
            warmup_steps: 0,
            decay: Decay::Constant,
        };
        assert_eq!(schedule.rate(1, 10), 2.0);
        assert_eq!(schedule.rate(10, 10), 2.0);
    }
}
