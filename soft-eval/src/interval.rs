//! Confidence intervals of shares, where a text has one trial or many, correlated ones.
//!
//! The interval is the exact one of Clopper and Pearson for the effective number of independent
//! trials (Korn & Graubard, *Confidence intervals for proportions with small expected number of
//! positive counts estimated from survey data*, Survey Methodology 24, 1998). The effective number
//! follows from the variance between texts. It is estimated with one more text of mean length that
//! is all failures for the lower end and all successes for the upper one, since texts that are all
//! alike say nothing about the text that is not. A percentile bootstrap, which resamples only what
//! was seen, puts the lower end of a share near 1 above the truth several times too often.

use serde::{Deserialize, Serialize};
use statrs::distribution::{Beta, ContinuousCDF, StudentsT};

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

/// More effective trials are taken as so many, for which the beta distribution is still accurate.
const MOST_TRIALS: f64 = 1e6;

/// The probability beyond each end of a 95 % interval.
const TAIL: f64 = 0.025;

impl Interval {
    /// A share of successes and its 95 % interval, given successes and trials of every text.
    /// Successes may be fractions. `None` without trials.
    ///
    /// With one trial per text it is the exact interval of Clopper and Pearson.
    pub fn of_share(texts: &[(f64, f64)]) -> Option<Self> {
        let texts: Vec<_> = texts.iter().copied().filter(|text| text.1 > 0.0).collect();
        if texts.is_empty() {
            return None;
        }
        let (successes, trials) = sums(&texts);
        let share = successes / trials;
        let below = effective_trials(&texts, 0.0);
        let above = effective_trials(&texts, 1.0);
        let (of_below, of_above) = (share * below, (1.0 - share) * above);
        Some(Self {
            estimate: share,
            low: quantile(of_below, below - of_below + 1.0, TAIL).unwrap_or(0.0),
            high: quantile(above - of_above + 1.0, of_above, 1.0 - TAIL).unwrap_or(1.0),
        })
    }

    /// The number of texts of `trials` trials that are needed for a lower end of `share`, if all
    /// trials succeed. `None` if it is more than 10,000.
    pub fn fewest_texts(share: f64, trials: f64) -> Option<usize> {
        let enough = |texts: &usize| {
            let interval = Self::of_share(&vec![(trials, trials); *texts]);
            interval.is_some_and(|interval| interval.low >= share)
        };
        // The lower end grows with the number of texts.
        let (mut below, mut above) = (0, 10_000);
        if !enough(&above) {
            return None;
        }
        while above - below > 1 {
            let middle = usize::midpoint(below, above);
            if enough(&middle) {
                above = middle;
            } else {
                below = middle;
            }
        }
        Some(above)
    }

    /// The share of these trials that succeed, one per text.
    pub fn of_trials(successes: impl IntoIterator<Item = bool>) -> Option<Self> {
        let texts = successes.into_iter().map(|success| (success.into(), 1.0));
        Self::of_share(&texts.collect::<Vec<_>>())
    }

    /// A mean of differences from −1 to 1 and its 95 % interval, given the sum of the differences
    /// and the trials of every text. `None` without trials.
    pub fn of_differences(texts: &[(f64, f64)]) -> Option<Self> {
        let as_share = |&(difference, trials): &(f64, f64)| ((difference + trials) / 2.0, trials);
        let shares: Vec<_> = texts.iter().map(as_share).collect();
        let Self {
            estimate,
            low,
            high,
        } = Self::of_share(&shares)?;
        Some(Self {
            estimate: 2.0 * estimate - 1.0,
            low: 2.0 * low - 1.0,
            high: 2.0 * high - 1.0,
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

fn sums(texts: &[(f64, f64)]) -> (f64, f64) {
    texts.iter().fold((0.0, 0.0), |(successes, trials), text| {
        (successes + text.0, trials + text.1)
    })
}

/// The number of independent trials that say as much about the share as these texts and one more,
/// whose trials succeed in the share `more`.
fn effective_trials(texts: &[(f64, f64)], more: f64) -> f64 {
    let ((successes, trials), count) = (sums(texts), texts.len() as f64);
    let length = trials / count;
    let (all, share) = (
        trials + length,
        (successes + more * length) / (trials + length),
    );
    let further = std::iter::once((more * length, length));
    let squares: f64 = texts
        .iter()
        .copied()
        .chain(further)
        .map(|(successes, trials)| (successes - share * trials).powi(2))
        .sum();
    if squares <= 0.0 {
        return count;
    }
    let variance = (count + 1.0) / count * squares / (all * all);
    let (trials, texts) = (t_quantile(trials), t_quantile(count));
    let effective = share * (1.0 - share) / variance * (trials / texts).powi(2);
    effective.min(MOST_TRIALS)
}

/// The two-sided 95 % quantile of Student's distribution for a mean of `count` numbers.
fn t_quantile(count: f64) -> f64 {
    let student = StudentsT::new(0.0, 1.0, (count - 1.0).max(1.0));
    student.map_or(f64::NAN, |student| student.inverse_cdf(1.0 - TAIL))
}

/// The quantile of a beta distribution; `None` when a parameter is 0.
///
/// By bisection: the library's own inverse does not end for some large parameters.
fn quantile(a: f64, b: f64, probability: f64) -> Option<f64> {
    let beta = Beta::new(a, b).ok()?;
    let (mut below, mut above) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = f64::midpoint(below, above);
        if beta.cdf(middle) < probability {
            below = middle;
        } else {
            above = middle;
        }
    }
    Some(f64::midpoint(below, above))
}

#[cfg(test)]
mod tests {
    use soft_core::random::Random;

    use super::*;

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 5e-4, "{found}, not {expected}");
    }

    /// Clopper and Pearson's intervals: 0 of 10 from 1 − 0.025^(1/10), the others from tables.
    #[test]
    fn one_trial_per_text_is_exact() {
        let of = |successes: usize, trials: usize| {
            Interval::of_trials((0..trials).map(|trial| trial < successes)).unwrap()
        };
        let none = of(0, 10);
        assert_eq!((none.estimate, none.low), (0.0, 0.0));
        near(none.high, 1.0 - 0.025_f64.powf(0.1));
        let all = of(20, 20);
        assert_eq!((all.estimate, all.high), (1.0, 1.0));
        near(all.low, 0.025_f64.powf(0.05));
        let some = of(3, 10);
        near(some.low, 0.0667);
        near(some.high, 0.6525);
        let half = of(50, 100);
        near(half.low, 0.3983);
        near(half.high, 0.6017);
        assert!(Interval::of_trials([]).is_none());
        assert!(Interval::of_share(&[(0.0, 0.0)]).is_none());
        let empty = Interval::of_share(&[(1.0, 1.0), (0.0, 0.0), (1.0, 1.0)]);
        assert_eq!(empty, Interval::of_share(&[(1.0, 1.0); 2]));
    }

    /// 0.95^72 < 0.025 < 0.95^71; the tokens of a text count for a little less.
    #[test]
    fn texts_that_are_needed() {
        assert_eq!(Interval::fewest_texts(0.95, 1.0), Some(72));
        let longer = Interval::fewest_texts(0.95, 48.0).unwrap();
        assert!((73..80).contains(&longer), "{longer}");
        assert_eq!(Interval::fewest_texts(1.0, 1.0), None);
    }

    #[test]
    fn differences_are_shares_of_twice_the_width() {
        let tied = Interval::of_differences(&[(0.0, 1.0); 20]).unwrap();
        assert_eq!(tied.estimate, 0.0);
        assert!(tied.low < -0.02 && tied.high > 0.02, "{tied:?}");
        let lost = Interval::of_differences(&[(-1.0, 1.0); 20]).unwrap();
        assert_eq!((lost.estimate, lost.low), (-1.0, -1.0));
        near(lost.high, 1.0 - 2.0 * 0.025_f64.powf(0.05));
    }

    /// Equal models on many questions: the effective number of trials is that number squared. The
    /// expected widths are those of the normal limit.
    #[test]
    fn many_ties_are_narrow() {
        for count in [100_usize, 1000, 20_000] {
            let tied = Interval::of_differences(&vec![(0.0, 1.0); count]).unwrap();
            let trials = (count as f64).powi(2).min(MOST_TRIALS);
            let expected = 2.0 * 1.96 / trials.sqrt();
            let found = tied.high - tied.low;
            assert!(tied.estimate == 0.0, "{tied:?}");
            assert!((found / expected - 1.0).abs() < 0.05, "{count}: {tied:?}");
        }
    }

    #[test]
    fn a_million_tokens() {
        let texts = (0..1000).map(|text| (300.0 + f64::from(text % 200), 1000.0));
        let found = Interval::of_share(&texts.collect::<Vec<_>>()).unwrap();
        // The standard deviation of a text is 0.0577, so that the standard error is 0.0018.
        near(found.estimate, 0.3995);
        near(found.low, 0.3995 - 0.0036);
        near(found.high, 0.3995 + 0.0036);
    }

    #[test]
    fn shares_very_near_1_have_an_interval() {
        for successes in [47.0, 47.9999, 47.999_999_99] {
            for count in [1, 10, 1000] {
                let found = Interval::of_share(&vec![(successes, 48.0); count]).unwrap();
                let Interval {
                    low,
                    estimate,
                    high,
                } = found;
                assert!(
                    low < estimate && estimate < high && high <= 1.0,
                    "{found:?}"
                );
            }
        }
    }

    /// One text can tell nothing, however long.
    #[test]
    fn the_trials_of_a_text_are_not_independent() {
        let one = Interval::of_share(&[(90.0, 100.0)]).unwrap();
        assert!(one.low < 0.05 && one.high > 0.99, "{one:?}");
        let alike = Interval::of_share(&[(48.0, 48.0); 20]).unwrap();
        assert!((0.75..0.84).contains(&alike.low), "{alike:?}");
    }

    /// Of 20 texts of 48 decisions, a share of the texts is hard and fails more often. An end lies
    /// beyond the truth in at most 2.5 % of 2,000 samples, with a standard deviation of 0.35 %.
    #[test]
    fn ends_lie_beyond_the_truth_as_seldom_as_they_say() {
        let mut rng = Random::new(11);
        for (hard, easy_share, hard_share) in [
            (0.0, 0.97, 0.0),
            (0.1, 0.99, 0.8),
            (0.02, 1.0, 0.3),
            (0.05, 1.0, 0.0),
            (0.3, 0.9, 0.1),
            (0.05, 0.0, 0.4),
        ] {
            let truth = (1.0 - hard) * easy_share + hard * hard_share;
            let (mut low, mut high) = (0, 0);
            for _ in 0..2000 {
                let texts = [(); 20].map(|()| {
                    let of_hard = rng.uniform() < hard;
                    let share = if of_hard { hard_share } else { easy_share };
                    let right = (0..48).filter(|_| rng.uniform() < share).count();
                    (right as f64, 48.0)
                });
                let interval = Interval::of_share(&texts).unwrap();
                low += usize::from(interval.low > truth + 1e-9);
                high += usize::from(interval.high < truth - 1e-9);
            }
            assert!(
                low <= 70 && high <= 70,
                "{truth}: {low} and {high} of 2,000"
            );
        }
    }
}
