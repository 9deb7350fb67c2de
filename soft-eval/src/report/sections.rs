//! Findings to sections: which table and which figure shows what.

use std::collections::BTreeMap;

use super::document::{Document, Section};
use super::figures::{Curve, Curves, HeatMap, Points, Shares};
use super::numbers::{
    digits, interval, number, percent, percent_interval, points, ratio, signed_interval,
};
use crate::results::{
    AgreementTable, AnswerDifference, AnswerTable, CalibrationTable, DifferenceTable, Evaluation,
    ExitTable, Finding, JudgeQualityTable, JudgedTable, SampleTable, SpeedTable,
};
use crate::{EvalError, Interval, PositionAgreement, frontier};

/// The findings of all evaluations, by kind.
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

/// The document that shows these evaluations.
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

/// File names of figures, each given once.
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

/// The values in the order in which they first come.
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

fn exits(data: &str, tables: &[&ExitTable], names: &mut Names) -> Result<Section, EvalError> {
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
                row.loss
                    .map_or_else(|| number(scores.loss), |loss| interval(&loss)),
                number(scores.perplexity),
                percent(scores.accuracy),
                scores.tokens.to_string(),
            ]);
            loss.add(depth(scores.exit), scores.loss, row.loss.as_ref());
            accuracy.add(depth(scores.exit), 100.0 * scores.accuracy, None);
        }
        losses.push(loss);
        accuracies.push(accuracy);
    }
    let headings = [
        "model",
        "exit",
        "loss, nats",
        "perplexity",
        "accuracy %",
        "tokens",
    ];
    section.table(
        "Means over tokens; in brackets the 95 % interval, texts resampled.",
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

fn answers(data: &str, tables: &[&AnswerTable], names: &mut Names) -> Result<Section, EvalError> {
    let mut section = Section::new(&format!("Answers: {data}"));
    let (mut rows, mut curves) = (Vec::new(), Vec::new());
    for table in tables {
        let mut curve = Curve::named(&table.model);
        for row in &table.rows {
            rows.push(vec![
                table.model.clone(),
                row.mode.clone(),
                percent_interval(&row.exact_match),
                percent_interval(&row.exact_match_normalised),
                percent_interval(&row.f1),
            ]);
            if let Some(exit) = row.exit {
                let share = row.exact_match_normalised.scaled(100.0);
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
    let headings = ["model", "decoding", "EM %", "EM normalised %", "F1 %"];
    section.table(
        "In brackets the 95 % interval, questions resampled.",
        &headings,
        rows,
    );
    let figure = Curves {
        x: "exit: blocks run",
        y: "EM in %, normalised",
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

fn differences(tables: &[&DifferenceTable]) -> Section {
    let mut section = Section::new("Two models on the same texts");
    for table in tables {
        let last = table.rows.last();
        if let Some(row) = last {
            let share = row.loss.scaled(100.0 / row.their_loss);
            section.text(format!(
                "Full-depth tax: at exit {} the loss of {} differs by {} % from that of {} ({} nats), {}.",
                row.exit,
                table.ours,
                signed_interval(&share, 1),
                table.theirs,
                signed_interval(&row.loss, 3),
                table.data,
            ));
        }
        let line = |row: &crate::results::DifferenceRow| {
            let answers = |of: fn(&AnswerDifference) -> &Interval| {
                let answers = row.answers.as_ref();
                answers.map_or("–".to_owned(), |answers| {
                    signed_interval(&of(answers).scaled(100.0), 1)
                })
            };
            vec![
                row.exit.to_string(),
                signed_interval(&row.loss, 3),
                signed_interval(&row.loss.scaled(100.0 / row.their_loss), 1),
                signed_interval(&row.accuracy.scaled(100.0), 1),
                answers(|answers| &answers.exact_match),
                answers(|answers| &answers.exact_match_normalised),
                answers(|answers| &answers.f1),
            ]
        };
        let headings = [
            "exit",
            "loss, nats",
            "loss, %",
            "accuracy, points",
            "EM, points",
            "EM normalised, points",
            "F1, points",
        ];
        section.table(
            format!(
                "{} less {}, {}; paired, in brackets the 95 % interval.",
                table.ours, table.theirs, table.data
            ),
            &headings,
            table.rows.iter().map(line).collect(),
        );
    }
    section
}

/// One of the figures of a position.
type Figure = fn(&PositionAgreement) -> f64;

fn agreement(tables: &[&AgreementTable], names: &mut Names) -> Result<Section, EvalError> {
    let mut section = Section::new("Exits beside the full depth, token by token");
    section.text(
        "Every exit and the full model read the same text, the full model's own greedy answers. KL is that of the exit's next-token distribution from the \
         full model's, in nats; the cosine is that of the hidden states before the final norm.",
    );
    // One scale for all maps of a kind, so that they can be compared.
    let highest = |of: fn(&PositionAgreement) -> f64| {
        let exits = tables.iter().flat_map(|table| &table.exits);
        let positions = exits.flat_map(|exit| &exit.positions);
        let values = positions.filter(|position| position.answers > 0).map(of);
        values.fold(0.0, f64::max)
    };
    let most_nats = highest(|position| position.kl);
    let mut rows = Vec::new();
    for table in tables {
        let pairing = format!("{} exits, {} full depth", table.model, table.reference);
        for exit in &table.exits {
            let mean = exit.overall();
            rows.push(vec![
                pairing.clone(),
                exit.exit.to_string(),
                percent(mean.top1),
                number(mean.kl),
                number(mean.cosine),
                mean.answers.to_string(),
            ]);
        }
        let labels: Vec<String> = table
            .exits
            .iter()
            .map(|exit| exit.exit.to_string())
            .collect();
        let kinds: [(&str, &str, Figure, (f64, f64)); 3] = [
            ("KL divergence in nats", "kl", |p| p.kl, (0.0, most_nats)),
            ("cosine similarity", "cosine", |p| p.cosine, (0.0, 1.0)),
            ("share of equal tokens", "top1", |p| p.top1, (0.0, 1.0)),
        ];
        for (what, name, of, range) in kinds {
            let values: Vec<Vec<Option<f64>>> = table
                .exits
                .iter()
                .map(|exit| {
                    let positions = exit.positions.iter();
                    positions.map(|p| (p.answers > 0).then(|| of(p))).collect()
                })
                .collect();
            let map = HeatMap {
                x: "position in the answer",
                y: "exit",
                rows: &labels,
                values: &values,
                range,
            };
            section.figure(
                names.of(name),
                map.svg()?,
                format!("{pairing}: {what}, {}.", table.data),
            );
        }
    }
    let headings = [
        "pairing",
        "exit",
        "same token %",
        "KL, nats",
        "cosine",
        "tokens",
    ];
    section.table("Means over all positions.", &headings, rows);
    Ok(section)
}

fn judged(tables: &[&JudgedTable], names: &mut Names) -> Result<Section, EvalError> {
    let mut section = Section::new("Instructions, judged in pairs");
    section.text("Each pair of responses is judged in both orders; the score is (wins − losses) / instructions, from −1 to 1.");
    for table in tables {
        let line = |row: &crate::results::JudgedRow| {
            let score = &row.score;
            vec![
                format!(
                    "{} exit {} against {} exit {}",
                    row.ours, row.exit, row.theirs, row.their_exit
                ),
                signed_interval(&score.score, 3),
                points(score.wins),
                points(score.losses),
                points(score.ties),
                score.unclear.to_string(),
                percent(score.consistent),
            ]
        };
        let headings = [
            "pair",
            "score",
            "wins",
            "losses",
            "ties",
            "unclear replies",
            "same in both orders %",
        ];
        section.table(
            format!(
                "Judge: {}; {}. A win in one of the two orders counts ½.",
                table.judge, table.data
            ),
            &headings,
            table.rows.iter().map(line).collect(),
        );
        let mut curves: Vec<Curve> = Vec::new();
        for row in &table.rows {
            let same = row.exit == row.their_exit;
            let against = if same {
                "same exit".to_owned()
            } else {
                format!("exit {}", row.their_exit)
            };
            let name = format!("{} v. {} {against}", row.ours, row.theirs);
            let index = curves.iter().position(|curve| curve.name == name);
            let index = index.unwrap_or_else(|| {
                curves.push(Curve::named(&name));
                curves.len() - 1
            });
            let score = &row.score.score;
            curves[index].add(depth(row.exit), score.estimate, Some(score));
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

fn judges(tables: &[&JudgeQualityTable]) -> Section {
    let mut section = Section::new("How far the judges can be trusted");
    section.text("Verdicts of the judge, both orders together, beside those of people; kappa is agreement beyond chance, 1 at best.");
    let line = |table: &&JudgeQualityTable| {
        let quality = &table.quality;
        vec![
            table.judge.clone(),
            percent_interval(&quality.accuracy),
            percent(quality.macro_f1),
            number(quality.kappa),
            percent(quality.human_agreement),
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
        "people among themselves %",
        "their kappa",
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

fn calibration(tables: &[&CalibrationTable]) -> Section {
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
        let line = |row: &crate::results::CalibrationRow| {
            let kept = row
                .kept
                .map_or("–".to_owned(), |(kept, of)| format!("{kept} of {of}"));
            vec![
                row.criterion.to_string(),
                row.calibrated.rule.to_string(),
                percent(row.tested.disagreement()),
                percent(row.checked.disagreement()),
                format!("{:.1}", row.checked.mean_depth),
                format!("{:.2}", row.checked.heads_per_token),
                kept,
            ]
        };
        let headings = [
            "criterion",
            "rule",
            "disagree in calibration %",
            "disagree on other texts %",
            "mean depth",
            "heads per token",
            "splits that keep the promise",
        ];
        section.table(
            format!("{}, {}.", table.model, table.data),
            &headings,
            table.rows.iter().map(line).collect(),
        );
    }
    section
}

fn speed(table: &SpeedTable, names: &mut Names) -> Result<Section, EvalError> {
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

fn depths(table: &SpeedTable) -> Result<String, EvalError> {
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

fn samples(tables: &[&SampleTable]) -> Section {
    let mut section = Section::new("Answers side by side");
    section.text("Each piece of text has the colour of the depth that named it.");
    for table in tables {
        section
            .blocks
            .push(super::document::Block::Samples((*table).clone()));
    }
    section
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
