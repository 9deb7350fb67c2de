//! Responses compared by judges, and the agreement of judges with people.

use super::{Names, depth};
use crate::EvalError;
use crate::numbers::{number, percent, percent_interval};
use crate::report::document::Section;
use crate::report::figures::{Curve, Curves};
use crate::results::{JudgeQualityTable, JudgedRow, JudgedTable};

pub(super) fn judged(tables: &[&JudgedTable], names: &mut Names) -> Result<Section, EvalError> {
    let mut section = Section::new("Instructions, judged in pairs");
    section.text("Each pair of responses is judged in both orders; the score is (wins − losses) / instructions, from −1 to 1.");
    for table in tables {
        section.table(
            format!(
                "Judge: {}; {}. A win in one of the two orders counts ½.",
                table.judge, table.data
            ),
            &JudgedRow::HEADINGS,
            table.rows.iter().map(JudgedRow::cells).collect(),
        );
        let mut curves: Vec<Curve> = Vec::new();
        for row in &table.rows {
            let same = row.exit == row.their_exit;
            let deepest = table
                .rows
                .iter()
                .all(|other| other.their_exit <= row.their_exit);
            // The full depth against itself belongs to both curves.
            let against = [
                same.then(|| "same exit".to_owned()),
                (!same || deepest).then(|| format!("exit {}", row.their_exit)),
            ];
            for against in against.into_iter().flatten() {
                let name = format!("{} v. {} {against}", row.ours, row.theirs);
                let index = curves.iter().position(|curve| curve.name == name);
                let index = index.unwrap_or_else(|| {
                    curves.push(Curve::named(&name));
                    curves.len() - 1
                });
                let score = &row.score.score;
                curves[index].add(depth(row.exit), score.estimate, Some(score));
            }
        }
        let figure = Curves {
            x: "exit: blocks run",
            y: "score",
            curves: &curves,
            highest: None,
        };
        section.figure(
            names.of("judged"),
            figure.svg()?,
            format!("Scores with 95 % intervals, judged by {}.", table.judge),
        );
    }
    Ok(section)
}

pub(super) fn judges(tables: &[&JudgeQualityTable]) -> Section {
    let mut section = Section::new("How far the judges can be trusted");
    section.text("Verdicts of the judge, both orders together, beside those of people. The share of agreement with two annotators that agree is comparable with that of the third annotator, unlike the share of agreement with the majority of all three; kappa is agreement beyond chance, 1 at best.");
    let line = |table: &&JudgeQualityTable| {
        let quality = &table.quality;
        vec![
            table.judge.clone(),
            percent_interval(&quality.accuracy),
            percent(quality.macro_f1),
            number(quality.kappa),
            percent_interval(&quality.leave_one_out),
            percent_interval(&quality.human_leave_one_out),
            number(quality.human_kappa),
            percent(quality.consistent),
            quality.unclear.to_string(),
            quality.pairs.to_string(),
        ]
    };
    let headings = [
        "judge",
        "like the majority %",
        "macro F1 %",
        "kappa",
        "like two that agree %",
        "the third person %",
        "people's kappa",
        "same in both orders %",
        "unclear replies",
        "pairs",
    ];
    section.table(
        "Pairs in which most annotators agree.",
        &headings,
        tables.iter().map(line).collect(),
    );
    section
}
