//! Formats numbers for tables.

use crate::Interval;

/// Three decimals, or scientific notation from 1e5 on.
pub fn number(value: f64) -> String {
    if value.abs() >= 1e5 {
        format!("{value:.2e}")
    } else {
        format!("{value:.3}")
    }
}

/// Three significant digits.
pub fn digits(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let decimals = (2.0 - value.abs().log10().floor()).clamp(0.0, 9.0) as usize;
    format!("{value:.decimals$}")
}

/// A share from 0 to 1 in percent.
pub fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

/// An estimate with its interval.
pub fn interval(value: &Interval) -> String {
    with_interval(value, 3)
}

/// A ratio with its interval.
pub fn ratio(value: &Interval) -> String {
    with_interval(value, 2)
}

/// A share with its interval, in percent.
pub fn percent_interval(share: &Interval) -> String {
    with_interval(&share.scaled(100.0), 1)
}

fn with_interval(value: &Interval, decimals: usize) -> String {
    let Interval {
        estimate,
        low,
        high,
    } = value;
    format!("{estimate:.decimals$} [{low:.decimals$}, {high:.decimals$}]")
}

/// A difference with its interval, all with signs.
pub fn signed_interval(value: &Interval, decimals: usize) -> String {
    let sign = |value: f64| {
        let text = format!("{value:+.decimals$}");
        text.replace('-', "−")
    };
    format!(
        "{} [{}, {}]",
        sign(value.estimate),
        sign(value.low),
        sign(value.high)
    )
}

/// Wins, losses or ties from judgements, of which an instruction has two.
pub fn points(judgements: u64) -> String {
    format!("{:.1}", judgements as f64 / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_that_count() {
        let cases = [
            (0.0, "0"),
            (0.001234, "0.00123"),
            (0.5, "0.500"),
            (12.345, "12.3"),
            (1234.5, "1234"),
        ];
        for (value, text) in cases {
            assert_eq!(digits(value), text);
        }
        assert_eq!(number(1234567.0), "1.23e6");
    }
}
