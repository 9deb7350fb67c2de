//! Losses, accuracy and answers at every exit, and two models' in pairs.

use super::{Names, depth};
use crate::numbers::{number, percent, percent_interval, signed_interval};
use crate::report::document::Section;
use crate::report::figures::{Curve, Curves};
use crate::results::{AnswerTable, DifferenceRow, DifferenceTable, ExitTable};
use crate::{BaselineScores, EvalError};

pub(super) fn exits(
    data: &str,
    tables: &[&ExitTable],
    names: &mut Names,
) -> Result<Section, EvalError> {
    let mut section = Section::new(&format!("Loss at every exit: {data}"));
    let mut rows = Vec::new();
    let (mut losses, mut accuracies) = (Vec::new(), Vec::new());
    for table in tables {
        let (mut loss, mut accuracy) = (Curve::named(&table.model), Curve::named(&table.model));
        for row in &table.rows {
            let scores = &row.scores;
            rows.push(vec![
                table.model.clone(),
                scores.exit.to_string(),
                row.loss_cell(),
                number(scores.perplexity),
                percent(scores.accuracy),
                row.without_ends_cell(),
                row.skill_cell(),
                scores.tokens.to_string(),
            ]);
            loss.add(depth(scores.exit), scores.loss, row.loss.as_ref());
            accuracy.add(depth(scores.exit), 100.0 * scores.accuracy, None);
        }
        losses.push(loss);
        accuracies.push(accuracy);
    }
    // The same for all models of the same data.
    let fitted = tables.iter().find(|table| !table.baselines.is_empty());
    for baseline in fitted.iter().flat_map(|table| &table.baselines) {
        let mut cells = vec!["no model".to_owned()];
        cells.extend(baseline.cells());
        cells.extend([String::new(), baseline.tokens.to_string()]);
        rows.push(cells);
        losses.push(level(baseline, baseline.loss.estimate, tables));
        accuracies.push(level(baseline, 100.0 * baseline.accuracy, tables));
    }
    let headings = [
        "model",
        "exit",
        "loss, nats",
        "perplexity",
        "accuracy %",
        "without ends %",
        "skill, nats",
        "tokens",
    ];
    section.table(
        "Means over tokens; in brackets the 95 % interval, texts resampled. Without ends: the accuracy on tokens that do not end a response. Skill: nats below a bigram over answers, which never reads the prompt.",
        &headings,
        rows,
    );
    let x = "exit: blocks run";
    let loss = Curves {
        x,
        y: "loss in nats per token",
        curves: &losses,
        highest: None,
    };
    section.figure(
        names.of("loss"),
        loss.svg()?,
        format!("Loss by exit, {data}."),
    );
    let accuracy = Curves {
        y: "accuracy in %",
        curves: &accuracies,
        ..loss
    };
    section.figure(
        names.of("accuracy"),
        accuracy.svg()?,
        format!("Share of tokens that the exit ranks first, the text before given, {data}."),
    );
    Ok(section)
}

/// A horizontal line over all exits.
fn level(baseline: &BaselineScores, value: f64, tables: &[&ExitTable]) -> Curve {
    let mut curve = Curve::named(baseline.baseline.name());
    let depths = tables.iter().flat_map(|table| &table.rows);
    let depths: Vec<f64> = depths.map(|row| depth(row.scores.exit)).collect();
    for end in [f64::min, f64::max] {
        if let Some(at) = depths.iter().copied().reduce(end) {
            curve.add(at, value, None);
        }
    }
    curve
}

pub(super) fn answers(
    data: &str,
    tables: &[&AnswerTable],
    names: &mut Names,
) -> Result<Section, EvalError> {
    let mut section = Section::new(&format!("Answers: {data}"));
    let (mut rows, mut curves) = (Vec::new(), Vec::new());
    for table in tables {
        let mut curve = Curve::named(&table.model);
        for row in &table.rows {
            rows.push(vec![
                table.model.clone(),
                row.mode.clone(),
                percent_interval(&row.exact_match),
                percent_interval(&row.exact_match_normalized),
                percent_interval(&row.f1),
            ]);
            if let Some(exit) = row.exit {
                let share = row.exact_match_normalized.scaled(100.0);
                curve.add(depth(exit), share.estimate, Some(&share));
            }
        }
        curves.push(curve);
    }
    let questions = tables.first().map_or(0, |table| table.questions);
    section.text(format!(
        "{questions} questions, greedy answers. Exact match to the letter, as in the paper, and after TriviaQA's normalisation (case, punctuation, articles), \
         each against every accepted answer; F1 over words."
    ));
    let headings = ["model", "decoding", "EM %", "EM normalized %", "F1 %"];
    section.table("In brackets the 95 % interval.", &headings, rows);
    let figure = Curves {
        x: "exit: blocks run",
        y: "EM in %, normalized",
        curves: &curves,
        highest: None,
    };
    section.figure(
        names.of("answers"),
        figure.svg()?,
        format!("Exact match by exit with its 95 % interval, {data}."),
    );
    Ok(section)
}

pub(super) fn differences(tables: &[&DifferenceTable]) -> Section {
    let mut section = Section::new("Two models on the same texts");
    for table in tables {
        let last = table.rows.last();
        if let Some(row) = last {
            section.text(format!(
                "Full-depth tax: at exit {} the loss of {} differs by {} % from that of {} ({} nats), {}.",
                row.exit,
                table.ours,
                signed_interval(&row.loss_percent(), 1),
                table.theirs,
                signed_interval(&row.loss, 3),
                table.data,
            ));
        }
        section.table(
            format!(
                "{} less {}, {}; paired, in brackets the 95 % interval.",
                table.ours, table.theirs, table.data
            ),
            &DifferenceRow::HEADINGS,
            table.rows.iter().map(DifferenceRow::cells).collect(),
        );
    }
    section
}
