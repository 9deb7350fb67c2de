//! The quickstart's report: what `soft evaluate`, `compare`, `calibrate` and `sweep` measure.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use soft_burn::DecodingDefaults;
use soft_core::policy::{Criterion, ExitHead};
use soft_core::{Exit, Prompt};
use soft_eval::report::write_report;
use soft_eval::results::{
    AgreementTable, AnswerDifference, AnswerTable, CalibrationTable, DifferenceRow,
    DifferenceTable, ExitTable, Finding, SampleTable,
};
use soft_eval::{AnswerScore, AnsweredPrompt, CalibrationSettings, Journal, Pairing};
use soft_examples::calibration::{Plan, store};
use soft_examples::decoding::DecodingArgs;
use soft_examples::eval_model::Questions;
use soft_examples::evaluation::Recorder;
use soft_examples::speed::SpeedRun;

use super::{ANSWER, Measured, Quickstart, tuned};

const DATA: &str = "tiny world, held out";
/// Number of prompts on which decoding modes are timed.
const TIMED: usize = 40;

impl Quickstart {
    /// Writes the report, stores calibrated thresholds with the SoFT model, and returns the path of
    /// the page.
    pub fn report(&self, measured: &[Measured], soft: &Path) -> Result<PathBuf> {
        let mut recorder = Recorder::begin();
        let mut findings = self.tables(measured);
        let pair: Vec<&Measured> = tuned(measured).collect();
        let [sft, soft_model] = pair[..] else {
            anyhow::bail!("expected SFT and SoFT to compare");
        };
        recorder.model(&sft.subject);
        recorder.model(&soft_model.subject);
        findings.push(self.difference(soft_model, sft)?);
        for reference in [soft_model, sft] {
            for model in [soft_model, sft] {
                findings.push(self.agreement(model, reference)?);
            }
        }
        findings.push(self.calibration(soft_model, soft)?);
        findings.push(self.speed(soft_model, soft)?);
        findings.extend(self.samples(&[sft, soft_model])?);
        let folder = self.out.join("report");
        let title = "SoFT quickstart: one small LLaMA, every depth";
        write_report(&folder, title, &[recorder.finish(findings)])?;
        Ok(folder.join("index.html"))
    }

    fn tables(&self, measured: &[Measured]) -> Vec<Finding> {
        let exits = measured.iter().map(|measured| {
            Finding::Exits(ExitTable {
                model: measured.subject.name.clone(),
                data: DATA.to_owned(),
                rows: measured.scores.clone(),
                baselines: self
                    .baselines
                    .scores(&self.validation, self.tokenizer.stop_tokens()),
            })
        });
        let answers = measured.iter().map(|measured| {
            Finding::Answers(AnswerTable {
                model: measured.subject.name.clone(),
                data: DATA.to_owned(),
                questions: self.held_out.len() as u64,
                rows: measured.answer_scores.clone(),
            })
        });
        exits.chain(answers).collect()
    }

    fn difference(&self, ours: &Measured, theirs: &Measured) -> Result<Finding> {
        let scores = |measured: &Measured, index: usize| -> Vec<AnswerScore> {
            let pairs = measured.texts[index].iter().zip(&self.held_out);
            let scores = pairs.map(|(said, asked)| AnswerScore::of(said, &[&asked.response]));
            scores.collect()
        };
        let rows = self.exits.iter().enumerate().map(|(index, exit)| {
            let row = DifferenceRow::of(exit, &ours.rows[index], &theirs.rows[index]);
            let mut row = row.context("nothing is held out")?;
            row.answers = AnswerDifference::of(&scores(ours, index), &scores(theirs, index));
            Ok(row)
        });
        Ok(Finding::Difference(DifferenceTable {
            ours: ours.subject.name.clone(),
            theirs: theirs.subject.name.clone(),
            data: DATA.to_owned(),
            rows: rows.collect::<Result<_>>()?,
        }))
    }

    /// The full model's answers to the held-out prompts.
    fn texts(&self, measured: &Measured) -> Result<Vec<AnsweredPrompt>> {
        let answers = measured.answers.last().context("no exit")?;
        let pairs = self.prompts()?.into_iter().zip(answers);
        let texts = pairs.map(|(prompt, answer)| AnsweredPrompt {
            prompt,
            answer: answer.tokens.clone(),
            ended: answer.ended,
        });
        // The pass over the prompt generates the first token at full depth under every policy.
        Ok(texts.filter(|text| text.decisions() > 1).collect())
    }

    fn agreement(&self, model: &Measured, reference: &Measured) -> Result<Finding> {
        let texts = self.texts(reference)?;
        let pairing = Pairing {
            model: &model.subject.model,
            reference: &reference.subject.model,
            exits: &self.exits,
            positions: 8,
        };
        Ok(Finding::Agreement(AgreementTable {
            model: model.subject.name.clone(),
            reference: reference.subject.name.clone(),
            data: DATA.to_owned(),
            exits: pairing.agreement(&texts, || ())?,
        }))
    }

    /// Thresholds for every criterion, stored in the model's folder.
    fn calibration(&self, measured: &Measured, folder: &Path) -> Result<Finding> {
        let texts = self.texts(measured)?;
        let traces = measured.subject.traces(
            (&self.exits, ExitHead::Full),
            &texts,
            &mut Journal::unsaved(),
            || (),
        )?;
        let criteria = Criterion::ALL.into_iter();
        let plan = Plan {
            // Probes would need further texts.
            criteria: criteria.filter(|it| *it != Criterion::Probe).collect(),
            settings: CalibrationSettings::at_most(0.1, ANSWER + 1),
            check: 0.25,
            splits: 0,
        };
        let mut rows = plan.rows(&self.exits, &traces, |_| ())?;
        for row in &mut rows {
            row.calibrated.data = DATA.to_owned();
        }
        store(folder, &self.exits, (&rows, None))?;
        Ok(Finding::Calibration(CalibrationTable {
            model: measured.subject.name.clone(),
            data: format!("{DATA}, {} answers", traces.len()),
            rows,
        }))
    }

    /// Measures a few decoding modes, among them dynamic exits with calibrated thresholds.
    fn speed(&self, measured: &Measured, folder: &Path) -> Result<Finding> {
        let subject = &measured.subject;
        let trained = DecodingDefaults::load(folder, subject.model.config())?;
        let calibrated = trained.calibrated.first().context("no rule was stored")?;
        let dynamic = calibrated.mode();
        let modes = [
            ("full", "full"),
            ("exit=4", "exit=4"),
            ("calibrated", &dynamic),
            ("speculative=2", "speculative=2"),
            ("auto", "auto"),
        ];
        let modes =
            modes.map(|(name, mode)| (name.to_owned(), DecodingArgs::of_mode(mode, ANSWER)));
        let prompts: Vec<Prompt> = self
            .prompts()?
            .into_iter()
            .take(TIMED)
            .map(Prompt::from)
            .collect();
        let run = SpeedRun {
            subject,
            modes: &modes,
            data: DATA.to_owned(),
            prompts: &prompts,
            least_agreement: 0.9,
        };
        Ok(Finding::Speed(run.run(&mut Journal::unsaved())?))
    }

    fn samples(&self, models: &[&Measured]) -> Result<Vec<Finding>> {
        let prompts = self.prompts()?;
        let mut findings = Vec::new();
        for index in self.shown() {
            let mut answers = Vec::new();
            for measured in models {
                for (exit, of_exit) in self.exits.iter().zip(&measured.answers) {
                    let mode = format!("exit {exit}");
                    let answer = &of_exit[index];
                    answers.push(measured.subject.sample(&mode, &prompts[index], answer)?);
                }
                let mode = "dynamic:confidence=0.5";
                let questions = Questions {
                    prompts: &prompts[index..=index],
                    exits: Some(&self.exits),
                    max_new_tokens: ANSWER,
                    batch: 1,
                };
                let dynamic =
                    measured
                        .subject
                        .answers(mode, &questions, &mut Journal::unsaved(), || ())?;
                answers.push(
                    measured
                        .subject
                        .sample(mode, &prompts[index], &dynamic[0])?,
                );
            }
            let asked = &self.held_out[index];
            findings.push(Finding::Samples(SampleTable {
                prompt: asked.prompt.clone(),
                wanted: Some(asked.response.clone()),
                depth: Exit::depth(self.exits.last()),
                answers,
            }));
        }
        Ok(findings)
    }
}
