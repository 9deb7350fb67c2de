//! Calibrates every criterion on one part of the texts and evaluates the rules on the rest.

use std::path::Path;

use anyhow::Result;
use soft_burn::{SoftInfo, save_exit_probes};
use soft_core::Exits;
use soft_core::policy::{CalibratedExits, Criterion, ExitHead, ExitProbes};
use soft_eval::results::CalibrationRow;
use soft_eval::{CalibrationSettings, PolicyOutcome, TokenTrace, calibrate, shuffle};

/// Criteria to calibrate, and the split of the texts.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Criteria to calibrate.
    pub criteria: Vec<Criterion>,
    /// Limit and confidence, and the seed of the first split.
    pub settings: CalibrationSettings,
    /// Share of the texts that is held out to evaluate the rules.
    pub check: f64,
    /// Number of further random splits, to count how often the limit holds on the held-out texts.
    pub splits: u64,
}

impl Plan {
    /// One row per criterion, the cheapest first. `progress` is called after each calibration.
    pub fn rows(
        &self,
        exits: &Exits,
        traces: &[Vec<TokenTrace>],
        mut progress: impl FnMut(Criterion),
    ) -> Result<Vec<CalibrationRow>> {
        let mut rows = Vec::new();
        for &criterion in &self.criteria {
            let mut row = self.row(criterion, exits, traces, 0)?;
            progress(criterion);
            let mut kept = 0;
            for split in 1..=self.splits {
                let found = self.row(criterion, exits, traces, split)?;
                kept += u64::from(found.checked.disagreement() <= self.settings.disagreement);
                progress(criterion);
            }
            row.kept = (self.splits > 0).then_some((kept, self.splits));
            rows.push(row);
        }
        // By the texts that candidates were made on, since a choice by the test texts would bias
        // the test.
        let cost = |row: &CalibrationRow| row.tuning.cost(self.settings.heads);
        rows.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
        Ok(rows)
    }

    /// The texts that take no part in the calibration.
    pub fn held_out(&self, texts: usize) -> Vec<usize> {
        self.parts(texts, 0).1
    }

    /// The texts for the calibration and those held out.
    fn parts(&self, texts: usize, split: u64) -> (Vec<usize>, Vec<usize>) {
        let mut used: Vec<usize> = (0..texts).collect();
        // A seed other than that of the split in `calibrate`.
        shuffle(&mut used, self.settings.seed.wrapping_add(split) ^ 0x5eed);
        let checked = (self.check * texts as f64).round() as usize;
        let most = texts.saturating_sub(1);
        let held_out = used.split_off(texts - checked.clamp(1.min(most), most));
        (used, held_out)
    }

    /// Calibrates on one split of the texts.
    fn row(
        &self,
        criterion: Criterion,
        exits: &Exits,
        traces: &[Vec<TokenTrace>],
        split: u64,
    ) -> Result<CalibrationRow> {
        let settings = CalibrationSettings {
            seed: self.settings.seed.wrapping_add(split),
            ..self.settings
        };
        let (used, held_out) = self.parts(traces.len(), split);
        let of = |part: Vec<usize>| part.into_iter().map(|text| traces[text].clone()).collect();
        let (used, others): (Vec<_>, Vec<_>) = (of(used), of(held_out));
        let found = calibrate(criterion, exits, &used, &settings)?;
        let policy = found.calibrated.rule.policy();
        let checked = PolicyOutcome::of(&*policy, exits, &others);
        let heads = self.settings.heads;
        let plain = exits.last().depth() as f64 + heads.full;
        Ok(CalibrationRow {
            criterion,
            cost: Some(checked.cost(heads) / plain),
            checked,
            calibrated: found.calibrated,
            tuning: found.tuning,
            tested: found.tested,
            kept: None,
            own_text: None,
            provable: found.provable,
        })
    }
}

/// Removes the rules of draft heads from `soft.json`, which hold for one list of draft tokens only.
/// Returns their number.
pub fn forget_draft_rules(folder: &Path) -> Result<usize> {
    let Some(mut info) = SoftInfo::load(folder)? else {
        return Ok(0);
    };
    let before = info.calibrated.len();
    info.calibrated.retain(|rule| rule.head != ExitHead::Draft);
    let removed = before - info.calibrated.len();
    if removed > 0 {
        info.save(folder)?;
    }
    Ok(removed)
}

/// Writes the rules to `soft.json`, before all others, and replaces those of the same criterion,
/// exits and head. A folder without the file gets one with the method "none". New probes replace
/// all others, and rules by those.
pub fn store(
    folder: &Path,
    exits: &Exits,
    (rows, probes): (&[CalibrationRow], Option<&ExitProbes>),
) -> Result<()> {
    let info = SoftInfo::load(folder)?;
    let mut info = info.unwrap_or_else(|| SoftInfo {
        exits: exits.clone(),
        method: "none".to_owned(),
        provenance: serde_json::Value::Null,
        calibrated: Vec::new(),
    });
    let replaced = |old: &CalibratedExits| {
        let same = |new: &CalibratedExits| {
            let criterion = new.rule.criterion() == old.rule.criterion();
            criterion && new.exits == old.exits && new.head == old.head
        };
        rows.iter().any(|row| same(&row.calibrated))
    };
    info.calibrated.retain(|old| {
        let outdated = probes.is_some() && old.rule.criterion() == Criterion::Probe;
        !outdated && !replaced(old)
    });
    if let Some(probes) = probes {
        // Without rules by the earlier ones, whatever interrupts this.
        info.save(folder)?;
        save_exit_probes(folder, probes)?;
    }
    let rules = rows.iter().map(|row| row.calibrated.clone());
    info.calibrated.splice(0..0, rules);
    Ok(info.save(folder)?)
}
