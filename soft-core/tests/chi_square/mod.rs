//! Pearson's chi-square test, for tests of random draws.
//!
//! Source of the critical value: Wilson and Hilferty, *The Distribution of Chi-Square*, 1931.

/// Upper 1e-4 quantile of the standard normal distribution.
const Z: f64 = 3.719_016;

/// The start of the upper 1e-4 tail of chi-square with `freedom` degrees of freedom.
pub fn critical(freedom: f64) -> f64 {
    let spread = 2.0 / (9.0 * freedom);
    freedom * (1.0 - spread + Z * spread.sqrt()).powi(3)
}

/// Pearson's statistic over its critical value: below 1 when `counts` may be draws from the
/// probabilities `expected`. Outcomes with an expected count below 5 are merged.
pub fn deviation(counts: &[u32], expected: &[f64]) -> f64 {
    let draws: u32 = counts.iter().sum();
    let mut bins = vec![(0.0, 0.0)];
    for (&count, &probability) in counts.iter().zip(expected) {
        let mean = probability * f64::from(draws);
        if mean == 0.0 && count > 0 {
            return f64::INFINITY;
        }
        if mean >= 5.0 {
            bins.push((f64::from(count), mean));
        } else {
            bins[0] = (bins[0].0 + f64::from(count), bins[0].1 + mean);
        }
    }
    bins.retain(|&(_, mean)| mean > 0.0);
    if bins.len() == 1 {
        return 0.0;
    }
    let statistic: f64 = bins.iter().map(|(n, mean)| (n - mean).powi(2) / mean).sum();
    statistic / critical((bins.len() - 1) as f64)
}
