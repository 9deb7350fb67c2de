//! Paired losses, accuracy and answers of two models at every exit.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use soft_core::{Batch, Exit};
use soft_data::{Format, encode, ordered_batches};
use soft_eval::Journal;
use soft_eval::results::{AnswerDifference, DifferenceRow, DifferenceTable, Finding};
use soft_examples::outln;
use soft_examples::progress::Progress;
use soft_examples::table::table;
use soft_examples::tokens::warn_of_control_text;

use super::Comparison;
use crate::trivia::{first_line, trivia_scores};

impl Comparison<'_> {
    /// The differences at every exit; none without rows.
    pub fn differences(&self, journal: &mut Journal) -> Result<Option<Finding>> {
        if self.records.is_empty() {
            return Ok(None);
        }
        let batches = self.batches()?;
        let mut scores = Vec::new();
        for model in self.models() {
            let mut progress = Progress::new("scoring", batches.len() as u64, 0);
            let step = || progress.step(&model.name);
            scores.push(model.row_scores(&self.exits, &batches, journal, step)?);
            progress.finish();
        }
        let mut rows = Vec::new();
        for (index, exit) in self.exits.iter().enumerate() {
            let row = DifferenceRow::of(exit, &scores[0][index], &scores[1][index]);
            let mut row = row.context("the rows have no token to compare")?;
            row.answers = self.answer_difference(exit, journal)?;
            rows.push(row);
        }
        print_differences(&self.ours.name, &self.theirs.name, &rows);
        Ok(Some(Finding::Difference(DifferenceTable {
            ours: self.ours.name.clone(),
            theirs: self.theirs.name.clone(),
            data: self.rows_name(),
            rows,
        })))
    }

    /// The rows, which both models must tokenize alike.
    fn batches(&self) -> Result<Vec<Batch>> {
        let (mut encoded, mut control_text) = (Vec::new(), BTreeMap::new());
        for model in self.models() {
            let longest = self.args.max_len.min(model.model.config().max_positions);
            let (examples, report) = encode(&self.records, &model.tokenizer, longest)?;
            encoded.push(examples);
            control_text = report.control_text;
        }
        warn_of_control_text(&control_text);
        ensure!(
            encoded[0] == encoded[1],
            "{} and {} tokenize the rows differently: their losses cannot be compared row by row",
            self.ours.name,
            self.theirs.name
        );
        Ok(ordered_batches(&encoded[0], self.args.batch)?)
    }

    /// The difference of the answers' scores at this exit; none if it answers no questions.
    fn answer_difference(
        &self,
        exit: Exit,
        journal: &mut Journal,
    ) -> Result<Option<AnswerDifference>> {
        let answers = match &self.args.answer_exits {
            Some(exits) => exits.contains(exit),
            None => exit == self.exits.last(),
        };
        if self.args.format != Some(Format::TriviaQa) || !answers {
            return Ok(None);
        }
        let mut scores = Vec::new();
        for model in self.models() {
            let prompts = self.row_prompts(model)?;
            let answers = self.answers(model, &prompts, &format!("exit={exit}"), journal)?;
            let texts = answers.iter().map(|answer| model.text(answer));
            let texts = texts
                .map(|text| Ok(first_line(&text?)))
                .collect::<Result<Vec<_>>>()?;
            scores.push(trivia_scores(&self.records, &texts));
        }
        Ok(AnswerDifference::of(&scores[0], &scores[1]))
    }
}

fn print_differences(ours: &str, theirs: &str, rows: &[DifferenceRow]) {
    outln!(
        "{ours} less {theirs}, with 95 % intervals\n{}",
        table(
            &DifferenceRow::HEADINGS,
            rows.iter().map(DifferenceRow::cells)
        )
    );
    if let Some(row) = rows.last() {
        outln!(
            "full-depth tax: {:+.1} % of the loss of {theirs} at exit {}",
            row.loss_percent().estimate,
            row.exit
        );
    }
}
