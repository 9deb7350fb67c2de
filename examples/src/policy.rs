//! Exit policies by name and thresholds, from the command line.

use anyhow::{Context, Result, ensure};
use soft_core::Thresholds;
use soft_core::policy::{Criterion, ExitRule};

/// Parses a policy: `confidence`, `margin`, `entropy`, `probe`, `saturation` or `patience=N`.
/// Default thresholds are the same for every exit.
pub fn parse_policy(text: &str, thresholds: Option<Thresholds>) -> Result<ExitRule> {
    if let Some(exits) = text.strip_prefix("patience=") {
        ensure!(
            thresholds.is_none(),
            "patience counts exits and has no thresholds"
        );
        let exits = exits
            .parse()
            .with_context(|| format!("patience {exits:?}: expected a number of exits"))?;
        return Ok(ExitRule::Patience(exits));
    }
    let default = match text {
        "entropy" => 0.5,
        "saturation" => 0.98,
        _ => 0.9,
    };
    let thresholds = thresholds.unwrap_or(Thresholds::all(default));
    let criterion = text.parse().ok();
    let rule = criterion.and_then(|criterion: Criterion| criterion.rule(thresholds));
    let rule = rule.with_context(|| {
        format!(
            "unknown policy {text:?}: expected confidence, margin, entropy, probe, saturation or patience=N"
        )
    })?;
    rule.check_range()?;
    Ok(rule)
}
