//! Numbers as they stand in tables.

use crate::Interval;

/// Three digits behind the point; very large numbers by their magnitude.
pub fn number(value: f64) -> String {
    match value.abs() >= 1e5 {
        true => format!("{value:.2e}"),
        false => format!("{value:.3}"),
    }
}

/// A share from 0 to 1 in percent.
pub fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

/// An estimate with its ends.
pub fn interval(value: &Interval) -> String {
    let Interval {
        estimate,
        low,
        high,
    } = value;
    format!("{estimate:.3} [{low:.3}, {high:.3}]")
}

/// A ratio with its ends.
pub fn ratio(value: &Interval) -> String {
    let Interval {
        estimate,
        low,
        high,
    } = value;
    format!("{estimate:.2} [{low:.2}, {high:.2}]")
}

/// A share with its ends in percent.
pub fn percent_interval(share: &Interval) -> String {
    let Interval {
        estimate,
        low,
        high,
    } = share.scaled(100.0);
    format!("{estimate:.1} [{low:.1}, {high:.1}]")
}

/// A difference with its ends and their signs.
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

/// Judgements, of which an instruction has two, as wins, losses or ties.
pub fn points(judgements: u64) -> String {
    format!("{:.1}", judgements as f64 / 2.0)
}
