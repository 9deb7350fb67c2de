//! Responses of the exits of two models, judged in pairs and shown for a few prompts.

use anyhow::Result;
use soft_eval::Journal;
use soft_eval::results::{Finding, Sample, SampleTable};

use super::Comparison;
use super::judging::Judging;

/// Number of prompts for which the report shows answers.
const SAMPLES: usize = 3;

impl Comparison<'_> {
    /// Judges the responses to the instructions, and measures the judge.
    pub fn judged(&self, mut judging: Judging, journal: &mut Journal) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        if !self.instructions.is_empty() {
            let exits = self.args.judge_exits.as_ref().unwrap_or(&self.exits);
            let mut responses = Vec::new();
            for model in self.models() {
                let prompts = self.prompts(model)?;
                let mut of_exits = Vec::new();
                for exit in exits.iter() {
                    let mode = format!("exit={exit}");
                    let answers = self.answers(model, &prompts, &mode, journal)?;
                    let texts = answers.iter().map(|answer| model.text(answer));
                    of_exits.push((exit, texts.collect::<Result<Vec<_>>>()?));
                }
                responses.push((model.name.clone(), of_exits));
            }
            let data = self.instructions_name();
            findings.push(judging.judge(&data, &self.instructions, &responses)?);
        }
        findings.extend(judging.quality(self.args)?);
        Ok(findings)
    }

    /// Answers of every exit of both models to a few prompts.
    pub fn samples(&self, journal: &mut Journal) -> Result<Vec<Finding>> {
        let asked = self.sample_prompts();
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); asked.len()];
        for model in self.models() {
            let mut prompts = self.prompts(model)?;
            prompts.truncate(asked.len());
            let exits = self.exits.iter();
            let mut modes: Vec<String> = exits.map(|exit| format!("exit={exit}")).collect();
            if self.exits.len() > 1 {
                modes.push("dynamic".to_owned());
            }
            for mode in modes {
                let answers = self.answers(model, &prompts, &mode, journal)?;
                for ((samples, prompt), answer) in samples.iter_mut().zip(&prompts).zip(&answers) {
                    samples.push(model.sample(&mode, prompt, answer)?);
                }
            }
        }
        let tables = asked.into_iter().zip(samples);
        let tables = tables.map(|((prompt, wanted), answers)| {
            Finding::Samples(SampleTable {
                prompt,
                wanted,
                depth: self.exits.last().depth(),
                answers,
            })
        });
        Ok(tables.collect())
    }

    /// The first prompts as text, with the expected answer if there is one.
    fn sample_prompts(&self) -> Vec<(String, Option<String>)> {
        if self.instructions.is_empty() {
            let questions = self.records.iter().filter_map(|it| it.trivia.as_ref());
            let asked = questions.map(|it| (it.question.clone(), Some(it.answer.clone())));
            return asked.take(SAMPLES).collect();
        }
        let asked = self.instructions.iter().map(|asked| {
            let text = format!("{}\n{}", asked.instruction, asked.input);
            (text.trim().to_owned(), None)
        });
        asked.take(SAMPLES).collect()
    }
}
