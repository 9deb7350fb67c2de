//! Calibrated exits, decoding modes, samples of answers.

use super::Names;
use crate::numbers::{digits, percent, ratio};
use crate::report::document::{Block, Section};
use crate::report::figures::{Points, Shares};
use crate::results::{CalibrationRow, CalibrationTable, SampleTable, SpeedTable};
use crate::{EvalError, frontier};

pub(super) fn calibration(tables: &[&CalibrationTable]) -> Section {
    let mut section = Section::new("Calibrated exits");
    for table in tables {
        if let Some(row) = table.rows.first() {
            let promise = &row.calibrated;
            section.text(format!(
                "{}: with {} % confidence at most {} % of the tokens of texts like these ({}) leave with another token than the full model's. Recommended: {}, \
                 at which tokens leave after {:.1} of {} blocks on average.",
                table.model,
                percent(promise.confidence),
                percent(promise.disagreement),
                table.data,
                row.criterion,
                promise.mean_depth,
                promise.exits.last(),
            ));
            if !row.provable {
                section.text("The texts were too few or too short to show that this promise holds, even had no token disagreed.");
            }
        }
        section.table(
            format!("{}, {}.", table.model, table.data),
            &CalibrationRow::HEADINGS,
            table.rows.iter().map(CalibrationRow::cells).collect(),
        );
    }
    section
}

pub(super) fn speed(table: &SpeedTable, names: &mut Names) -> Result<Section, EvalError> {
    let mut section = Section::new(&format!("Speed: {}, {}", table.model, table.data));
    section.text(format!(
        "{} prompts one at a time, every mode on every prompt in turns; the prompts' own passes are left out. Speed is time per token of plain decoding over \
         that of the mode, median over prompts.",
        table.prompts
    ));
    if let Some(recommended) = table
        .recommended
        .and_then(|index| table.settings.get(index))
    {
        section.text(format!(
            "Recommended, for at least {} % of the full model's tokens: {} ({:.2} times plain decoding, {} % agreement).",
            percent(table.least_agreement),
            recommended.name,
            recommended.speed,
            percent(recommended.agreement),
        ));
    }
    let rows = table
        .rows
        .iter()
        .zip(&table.settings)
        .map(|(row, setting)| {
            vec![
                row.mode.clone(),
                format!("{:.1}", row.tokens_per_second),
                format!(
                    "{:.1} [{:.1}, {:.1}]",
                    row.ms_per_token, row.ms_quartiles[0], row.ms_quartiles[1]
                ),
                row.speedup.as_ref().map_or("–".to_owned(), ratio),
                format!(
                    "{} [{}…]",
                    percent(setting.agreement),
                    percent(setting.least)
                ),
                percent(row.same_answers),
                format!("{:.1}", row.mean_depth),
                row.acceptance.map_or("–".to_owned(), percent),
                digits(row.giga_flops),
                format!("{:.2}", row.heads),
            ]
        });
    let headings = [
        "mode",
        "tokens/s",
        "ms/token [quartiles]",
        "speed [95 %]",
        "agreement %",
        "same answers %",
        "mean depth",
        "accepted %",
        "GFLOP/token",
        "heads/token",
    ];
    section.table("Agreement: share of what is named behind the first token, ends included, that the full model names on the same text, in brackets the lower end of its 95 % interval; operations are counted, heads included.", &headings, rows.collect());
    let points: Vec<(String, (f64, f64))> = table
        .settings
        .iter()
        .map(|setting| {
            (
                setting.name.clone(),
                (100.0 * setting.agreement, setting.speed),
            )
        })
        .collect();
    let figure = Points {
        x: "agreement with the full model in %",
        y: "speed, times plain decoding",
        points: &points,
        joined: &frontier(&table.settings),
    };
    section.figure(
        names.of("frontier"),
        figure.svg()?,
        "Speed against agreement; the line joins the settings that no other beats in both.",
    );
    section.figure(
        names.of("depths"),
        depths(table)?,
        "Tokens by the depth that named them.",
    );
    Ok(section)
}

pub(super) fn depths(table: &SpeedTable) -> Result<String, EvalError> {
    let by_depth = table.rows.iter().flat_map(|row| &row.by_depth);
    let mut all: Vec<usize> = by_depth.map(|(depth, _)| *depth).collect();
    all.sort_unstable();
    all.dedup();
    let bars: Vec<(String, Vec<f64>)> = table
        .rows
        .iter()
        .map(|row| {
            let tokens = row.by_depth.iter().map(|(_, tokens)| *tokens);
            let total = tokens.sum::<u64>().max(1) as f64;
            let share = |depth: &usize| {
                let found = row.by_depth.iter().find(|(at, _)| at == depth);
                100.0 * found.map_or(0, |(_, tokens)| *tokens) as f64 / total
            };
            (row.mode.clone(), all.iter().map(share).collect())
        })
        .collect();
    let parts: Vec<String> = all.iter().map(|depth| format!("exit {depth}")).collect();
    let shares = Shares {
        x: "share of tokens in %",
        bars: &bars,
        parts: &parts,
    };
    shares.svg()
}

pub(super) fn samples(tables: &[&SampleTable]) -> Section {
    let mut section = Section::new("Answers side by side");
    section.text("Each piece of text has the colour of the depth that named it.");
    for table in tables {
        section.blocks.push(Block::Samples((*table).clone()));
    }
    section
}
