//! Bootstrap confidence intervals of losses, speedups and their paired differences. For shares, see
//! [`Interval::of_share`].
//!
//! Questions are resampled, not tokens, since the tokens of a text are correlated. Two models are
//! compared on the same questions, so that the difficulty of a question cancels.
//!
//! Source: Efron & Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 13 (percentile
//! intervals).

use serde::{Deserialize, Serialize};
use soft_core::random::Random;

use crate::Interval;

/// Settings of the bootstrap.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    /// Number of resamples. With 2,000, the standard error of the ends is about 3 % of the
    /// half-width of the interval.
    pub resamples: usize,
    /// Confidence, above 0 and below 1.
    pub level: f64,
    /// Seed of the resampling.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self {
            resamples: 2000,
            level: 0.95,
            seed: 42,
        }
    }
}

impl Bootstrap {
    /// Σ numerators / Σ denominators of one pair per question, such as the nats and the tokens of a
    /// text. `None` if the denominators sum to 0.
    pub fn ratio(&self, parts: &[(f64, f64)]) -> Option<Interval> {
        self.interval(parts.len(), |sample| {
            let (above, below) = sample.fold((0.0, 0.0), |(above, below), index| {
                (above + parts[index].0, below + parts[index].1)
            });
            above / below
        })
    }

    /// The interval of a statistic, which is given the indices of a resample. `None` without
    /// questions, or if the statistic of all questions is not finite.
    pub fn interval(
        &self,
        questions: usize,
        statistic: impl Fn(&mut dyn Iterator<Item = usize>) -> f64,
    ) -> Option<Interval> {
        let estimate = statistic(&mut (0..questions));
        if questions == 0 || !estimate.is_finite() {
            return None;
        }
        let mut rng = Random::new(self.seed);
        let mut resampled: Vec<f64> = (0..self.resamples.max(1))
            .map(|_| {
                let mut draws = (0..questions).map(|_| (rng.uniform() * questions as f64) as usize);
                statistic(&mut draws)
            })
            .filter(|value| value.is_finite())
            .collect();
        resampled.sort_unstable_by(f64::total_cmp);
        let tail = (1.0 - self.level) / 2.0;
        let at = |share: f64| {
            let index = (share * (resampled.len() as f64 - 1.0)).round();
            resampled.get(index as usize).copied().unwrap_or(estimate)
        };
        Some(Interval {
            estimate,
            low: at(tail),
            high: at(1.0 - tail),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_hold_the_truth_as_often_as_they_say() {
        // 300 samples of 60 uniform numbers: 95 % of the intervals contain the mean 0.5, with a
        // standard deviation of 1.3 points.
        let mut rng = Random::new(5);
        let hits = (0..300).filter(|_| {
            let values: Vec<_> = (0..60).map(|_| (rng.uniform(), 1.0)).collect();
            let bootstrap = Bootstrap {
                resamples: 400,
                ..Bootstrap::default()
            };
            let interval = bootstrap.ratio(&values).unwrap();
            (interval.low..=interval.high).contains(&0.5)
        });
        let hits = hits.count() as f64 / 300.0;
        assert!((0.89..=0.99).contains(&hits), "{hits}");
    }

    #[test]
    fn ratios_weigh_long_texts_more_and_nothing_has_no_interval() {
        let bootstrap = Bootstrap::default();
        let interval = bootstrap.ratio(&[(10.0, 10.0), (0.0, 30.0)]).unwrap();
        assert_eq!(interval.estimate, 0.25);
        assert!(bootstrap.ratio(&[]).is_none());
        assert!(bootstrap.ratio(&[(1.0, 0.0)]).is_none());
    }
}
