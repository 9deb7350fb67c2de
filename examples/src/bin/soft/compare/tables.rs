//! The tables of `soft compare`.

use soft_eval::Interval;
use soft_eval::results::{AgreementTable, AnswerDifference, DifferenceRow};
use soft_examples::outln;
use soft_examples::table::{figure, percent, table};

pub fn agreement_rows(table: &AgreementTable) -> Vec<Vec<String>> {
    let row = |exit: &soft_eval::ExitAgreement| {
        let mean = exit.overall();
        vec![
            table.model.clone(),
            table.reference.clone(),
            exit.exit.to_string(),
            percent(mean.top1),
            figure(mean.kl),
            figure(mean.cosine),
        ]
    };
    table.exits.iter().map(row).collect()
}

pub fn print_differences(ours: &str, theirs: &str, rows: &[DifferenceRow]) {
    let signed = |value: &Interval| {
        format!(
            "{:+.3} ({:+.3}..{:+.3})",
            value.estimate, value.low, value.high
        )
    };
    let line = |row: &DifferenceRow| {
        let answers = |of: fn(&AnswerDifference) -> &Interval| {
            let answers = row.answers.as_ref();
            answers.map_or("-".to_owned(), |answers| signed(&of(answers).scaled(100.0)))
        };
        vec![
            row.exit.to_string(),
            signed(&row.loss),
            format!("{:+.1}", 100.0 * row.loss.estimate / row.their_loss),
            signed(&row.accuracy.scaled(100.0)),
            answers(|answers| &answers.exact_match),
            answers(|answers| &answers.exact_match_normalized),
            answers(|answers| &answers.f1),
        ]
    };
    let headings = [
        "exit",
        "loss, nats",
        "loss, %",
        "accuracy, points",
        "EM, points",
        "EM normalized, points",
        "F1, points",
    ];
    outln!(
        "{ours} less {theirs}, with 95 % intervals\n{}",
        table(&headings, rows.iter().map(line))
    );
    if let Some(row) = rows.last() {
        outln!(
            "full-depth tax: {:+.1} % of the loss of {theirs} at exit {}",
            100.0 * row.loss.estimate / row.their_loss,
            row.exit
        );
    }
}
