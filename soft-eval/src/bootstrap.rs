//! Bootstrap confidence intervals of means and of paired differences.
//!
//! Questions are resampled, not tokens, since the tokens of a text are correlated. Two models are
//! compared on the same questions, so that the difficulty of a question cancels.
//!
//! Source: Efron & Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 13 (percentile
//! intervals).

use serde::{Deserialize, Serialize};
use soft_core::random::Random;

/// An estimate and its confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The estimate from all data.
    pub estimate: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// A share of successes and its 95 % Wilson score interval (1927), which has a width even if
    /// none or all succeed. `None` without trials.
    pub fn of_share(successes: usize, trials: usize) -> Option<Self> {
        if trials == 0 {
            return None;
        }
        const Z: f64 = 1.959_963_984_540_054;
        let (n, share) = (trials as f64, successes as f64 / trials as f64);
        let middle = (share + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
        let spread = (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
        let half = Z * spread / (1.0 + Z * Z / n);
        Some(Self {
            estimate: share,
            low: (middle - half).max(0.0),
            high: (middle + half).min(1.0),
        })
    }

    /// The estimate and both ends times `factor`.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self {
            estimate: self.estimate * factor,
            low: self.low * factor,
            high: self.high * factor,
        }
    }
}

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
    /// The mean of one number per question. `None` without questions.
    pub fn mean(&self, values: &[f64]) -> Option<Interval> {
        let parts: Vec<_> = values.iter().map(|&value| (value, 1.0)).collect();
        self.ratio(&parts)
    }

    /// The mean of ours − theirs for the same questions in the same order. `None` without
    /// questions, or if the lengths differ.
    pub fn difference(&self, ours: &[f64], theirs: &[f64]) -> Option<Interval> {
        if ours.len() != theirs.len() {
            return None;
        }
        let pairs = ours.iter().zip(theirs);
        let differences: Vec<_> = pairs.map(|(ours, theirs)| ours - theirs).collect();
        self.mean(&differences)
    }

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
    fn the_interval_of_a_mean_is_that_of_the_normal_limit() {
        // 400 questions, half right: standard error 0.025, so 0.5 ± 0.049.
        let values: Vec<_> = (0..400).map(|i| f64::from(i % 2)).collect();
        let interval = Bootstrap::default().mean(&values).unwrap();
        assert_eq!(interval.estimate, 0.5);
        assert!((interval.low - 0.451).abs() < 0.006, "{interval:?}");
        assert!((interval.high - 0.549).abs() < 0.006, "{interval:?}");
    }

    #[test]
    fn shares_by_hand() {
        // Wilson's interval of 0 of 10 is (0, z²/(10 + z²)) = (0, 0.2775).
        let none = Interval::of_share(0, 10).unwrap();
        assert!(none.low.abs() < 1e-12 && (none.high - 0.2775).abs() < 1e-4);
        let half = Interval::of_share(50, 100).unwrap();
        assert!((half.low - 0.4038).abs() < 1e-4 && (half.high - 0.5962).abs() < 1e-4);
        assert!(Interval::of_share(0, 0).is_none());
    }

    #[test]
    fn pairs_cancel_what_they_share() {
        // The differences between questions are far larger than that of the models, 0.1 on each.
        let theirs: Vec<_> = (0..50).map(f64::from).collect();
        let ours: Vec<_> = theirs.iter().map(|value| value + 0.1).collect();
        let interval = Bootstrap::default().difference(&ours, &theirs).unwrap();
        assert!((interval.low - 0.1).abs() < 1e-9 && (interval.high - 0.1).abs() < 1e-9);
        assert!(
            Bootstrap::default()
                .difference(&ours, &theirs[1..])
                .is_none()
        );
    }

    #[test]
    fn intervals_hold_the_truth_as_often_as_they_say() {
        // 300 samples of 60 uniform numbers: 95 % of the intervals contain the mean 0.5, with a
        // standard deviation of 1.3 points.
        let mut rng = Random::new(5);
        let hits = (0..300).filter(|_| {
            let values: Vec<_> = (0..60).map(|_| rng.uniform()).collect();
            let bootstrap = Bootstrap {
                resamples: 400,
                ..Bootstrap::default()
            };
            let interval = bootstrap.mean(&values).unwrap();
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
        assert!(bootstrap.mean(&[]).is_none());
        assert!(bootstrap.ratio(&[(1.0, 0.0)]).is_none());
    }
}
