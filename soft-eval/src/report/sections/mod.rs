//! Turns findings into sections of tables and figures.

mod agreement;
mod decoding;
mod judging;
mod losses;

use std::collections::BTreeMap;

use agreement::agreement;
use decoding::{calibration, samples, speed};
use judging::{judged, judges};
use losses::{answers, differences, exits};

use super::document::{Document, Section};
use super::figures::Curve;
use crate::EvalError;
use crate::results::{
    AgreementTable, AnswerTable, CalibrationTable, DifferenceTable, Evaluation, ExitTable, Finding,
    JudgeQualityTable, JudgedTable, SampleTable, SpeedTable,
};

#[derive(Default)]
struct Findings<'a> {
    exits: Vec<&'a ExitTable>,
    answers: Vec<&'a AnswerTable>,
    differences: Vec<&'a DifferenceTable>,
    agreement: Vec<&'a AgreementTable>,
    judged: Vec<&'a JudgedTable>,
    judges: Vec<&'a JudgeQualityTable>,
    calibration: Vec<&'a CalibrationTable>,
    speed: Vec<&'a SpeedTable>,
    samples: Vec<&'a SampleTable>,
}

pub(super) fn document(title: &str, evaluations: &[Evaluation]) -> Result<Document, EvalError> {
    let mut found = Findings::default();
    for finding in evaluations
        .iter()
        .flat_map(|evaluation| &evaluation.findings)
    {
        match finding {
            Finding::Exits(table) => found.exits.push(table),
            Finding::Answers(table) => found.answers.push(table),
            Finding::Difference(table) => found.differences.push(table),
            Finding::Agreement(table) => found.agreement.push(table),
            Finding::Judged(table) => found.judged.push(table),
            Finding::JudgeQuality(table) => found.judges.push(table),
            Finding::Calibration(table) => found.calibration.push(table),
            Finding::Speed(table) => found.speed.push(table),
            Finding::Samples(table) => found.samples.push(table),
        }
    }
    let mut sections = Vec::new();
    let mut names = Names::default();
    for data in distinct(found.exits.iter().map(|table| &table.data)) {
        let tables = found.exits.iter().filter(|table| table.data == data);
        sections.push(exits(
            &data,
            &tables.copied().collect::<Vec<_>>(),
            &mut names,
        )?);
    }
    for data in distinct(found.answers.iter().map(|table| &table.data)) {
        let tables = found.answers.iter().filter(|table| table.data == data);
        sections.push(answers(
            &data,
            &tables.copied().collect::<Vec<_>>(),
            &mut names,
        )?);
    }
    if !found.differences.is_empty() {
        sections.push(differences(&found.differences));
    }
    if !found.agreement.is_empty() {
        sections.push(agreement(&found.agreement, &mut names)?);
    }
    if !found.judged.is_empty() {
        sections.push(judged(&found.judged, &mut names)?);
    }
    if !found.judges.is_empty() {
        sections.push(judges(&found.judges));
    }
    if !found.calibration.is_empty() {
        sections.push(calibration(&found.calibration));
    }
    for table in &found.speed {
        sections.push(speed(table, &mut names)?);
    }
    if !found.samples.is_empty() {
        sections.push(samples(&found.samples));
    }
    sections.push(provenance(evaluations));
    Ok(Document {
        title: title.to_owned(),
        sections,
    })
}

/// Makes file names of figures unique.
#[derive(Default)]
struct Names(BTreeMap<String, usize>);

impl Names {
    fn of(&mut self, name: &str) -> String {
        let uses = self.0.entry(name.to_owned()).or_default();
        *uses += 1;
        match *uses {
            1 => name.to_owned(),
            uses => format!("{name}-{uses}"),
        }
    }
}

/// The distinct values in order of first occurrence.
fn distinct<'a>(values: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut seen: Vec<String> = Vec::new();
    for value in values {
        if !seen.contains(value) {
            seen.push(value.clone());
        }
    }
    seen
}

fn depth(exit: soft_core::Exit) -> f64 {
    exit.depth() as f64
}

impl Curve {
    fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    fn add(&mut self, x: f64, y: f64, ends: Option<&crate::Interval>) {
        self.points.push((x, y));
        self.intervals
            .push(ends.map_or((y, y), |ends| (ends.low, ends.high)));
    }
}

fn provenance(evaluations: &[Evaluation]) -> Section {
    let mut section = Section::new("How this was made");
    let rows = evaluations.iter().map(|evaluation| {
        let provenance = &evaluation.provenance;
        let seeds = provenance.seeds.iter();
        let seeds: Vec<_> = seeds.map(|(name, seed)| format!("{name} {seed}")).collect();
        vec![
            provenance.command.clone(),
            provenance.version.clone(),
            seeds.join(", "),
            format!("{:.0}", provenance.seconds),
            provenance.machine.clone(),
        ]
    });
    section.table(
        "Commands.",
        &["command", "version", "seeds", "seconds", "machine"],
        rows.collect(),
    );
    let mut inputs: Vec<_> = evaluations
        .iter()
        .flat_map(|evaluation| &evaluation.provenance.inputs)
        .map(|input| {
            vec![
                input.path.display().to_string(),
                input.bytes.to_string(),
                input.crc32c.clone(),
            ]
        })
        .collect();
    inputs.sort();
    inputs.dedup();
    section.table("Models and data.", &["file", "bytes", "CRC-32C"], inputs);
    section
}
