//! Agreement of the exits of two models with the full depth of either, by output position: the four
//! pairings of Sorted LLaMA, section 5.

use anyhow::Result;
use soft_eval::numbers::{number, percent};
use soft_eval::results::{AgreementTable, Finding};
use soft_eval::{AnsweredPrompt, ExitAgreement, Journal, Pairing};
use soft_examples::eval_model::EvalModel;
use soft_examples::outln;
use soft_examples::progress::Progress;
use soft_examples::table::table;

use super::Comparison;

impl Comparison<'_> {
    /// The agreement on the reference's own answers. Empty with --positions 0 or without prompts.
    pub fn agreement(&self, journal: &mut Journal) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        if self.args.positions == 0 || self.records.is_empty() && self.instructions.is_empty() {
            return Ok(findings);
        }
        let data = if self.instructions.is_empty() {
            self.rows_name()
        } else {
            self.instructions_name()
        };
        let full = format!("exit={}", self.exits.last());
        let mut rows = Vec::new();
        for reference in self.models() {
            let prompts = self.prompts(reference)?;
            let answers = self.answers(reference, &prompts, &full, journal)?;
            let texts = prompts.into_iter().zip(answers);
            let texts = texts.map(|(prompt, answer)| AnsweredPrompt {
                prompt,
                answer: answer.tokens,
                ended: answer.ended,
            });
            let texts: Vec<_> = texts.collect();
            for model in self.models() {
                let table = AgreementTable {
                    model: model.name.clone(),
                    reference: reference.name.clone(),
                    data: data.clone(),
                    exits: self.pairing(model, reference, &texts, journal)?,
                };
                rows.extend(table.exits.iter().map(|exit| row(&table, exit)));
                findings.push(Finding::Agreement(table));
            }
        }
        let headings = [
            "exits of",
            "full depth of",
            "exit",
            "same token %",
            "KL, nats",
            "cosine",
        ];
        outln!(
            "\nagreement with the full depth on its own answers\n{}",
            table(&headings, rows)
        );
        Ok(findings)
    }

    /// Compares the exits of one model with the full depth of another, on answers of the latter.
    fn pairing(
        &self,
        model: &EvalModel,
        reference: &EvalModel,
        texts: &[AnsweredPrompt],
        journal: &mut Journal,
    ) -> Result<Vec<ExitAgreement>> {
        let content = texts.iter().flat_map(|text| {
            let ends = [text.prompt.len() as u32, text.decisions() as u32];
            ends.into_iter()
                .chain(text.prompt.iter().chain(&text.answer).copied())
        });
        let content: Vec<u32> = content.collect();
        let how = format!(
            "agreement/{}/{}/{}",
            self.exits,
            self.args.positions,
            reference.key("of", &[])
        );
        let key = model.key(&how, &content);
        if let Some(known) = journal.get(&key)? {
            return Ok(known);
        }
        let mut progress = Progress::new("agreement", texts.len() as u64, 0);
        let name = format!("{} exits, {} full depth", model.name, reference.name);
        let pairing = Pairing {
            model: &model.model,
            reference: &reference.model,
            exits: &self.exits,
            positions: self.args.positions,
        };
        let found = pairing.agreement(texts, || progress.step(&name))?;
        progress.finish();
        journal.record(&key, &found)?;
        Ok(found)
    }
}

fn row(table: &AgreementTable, exit: &ExitAgreement) -> Vec<String> {
    let mean = exit.overall();
    vec![
        table.model.clone(),
        table.reference.clone(),
        exit.exit.to_string(),
        percent(mean.top1),
        number(mean.kl),
        number(mean.cosine),
    ]
}
