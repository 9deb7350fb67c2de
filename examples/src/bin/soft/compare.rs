//! Compares two checkpoints the way Sorted LLaMA does: losses and answers of every exit in pairs
//! (the full-depth tax among them), KL divergence and cosine similarity of every exit with either
//! full model by output position (section 5), responses to instructions judged in both orders
//! (section 4).

mod args;
mod judging;
mod tables;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use soft_core::{Exit, Exits};
use soft_data::{
    Format, Instruction, Record, alpaca_prompt, encode, encode_prompt, ordered_batches,
    read_instructions,
};
use soft_eval::results::{
    AgreementTable, AnswerDifference, DifferenceRow, DifferenceTable, Finding, Sample, SampleTable,
};
use soft_eval::{AnsweredPrompt, ExitAgreement, Journal, Pairing};
use soft_examples::decoding::exits_of;
use soft_examples::eval_model::{Answer, EvalModel, Questions};
use soft_examples::evaluation::Recorder;
use soft_examples::progress::Progress;
use soft_examples::table::table;
use soft_examples::tokens::warn_of_control_text;
use soft_examples::trivia::{first_line, trivia_scores};

pub use args::Args;
use soft_examples::outln;
use tables::{agreement_rows, print_differences};

/// Prompts of which the report shows the answers of every exit.
const SAMPLES: usize = 3;

pub fn run(args: Args) -> Result<()> {
    args.check()?;
    let judge = args.judge_choice()?;
    let place = args.device.open()?;
    let ours = EvalModel::load(&args.ours, place.clone(), &args.tokens)?;
    let theirs = EvalModel::load(&args.theirs, place, &args.tokens)?;
    let exits = exits_of(&ours.trained, args.exits.as_ref())?;
    exits
        .clone()
        .for_depth(theirs.trained.depth)
        .with_context(|| theirs.name.clone())?;
    comparable(&args, &ours, &theirs, &exits)?;
    let mut recorder = Recorder::begin();
    recorder.model(&ours);
    recorder.model(&theirs);
    for path in [&args.data, &args.instructions, &args.people]
        .into_iter()
        .flatten()
    {
        recorder.input(path)?;
    }
    let judging = match judge {
        Some(judge) => Some(judging::Judging::begin(&args, &judge, &mut recorder)?),
        None => None,
    };
    let journal = args.output.open_journal("compare", &args.device.name())?;
    let mut comparison = Comparison {
        records: args.records()?,
        instructions: args.read_instructions()?,
        args: &args,
        ours,
        theirs,
        exits,
        journal,
        findings: Vec::new(),
    };
    comparison.differences()?;
    comparison.agreement()?;
    if let Some(judging) = judging {
        comparison.judged(judging)?;
    }
    comparison.samples()?;
    args.output.save(&recorder.finish(comparison.findings))
}

/// Refuses, before anything is computed, models whose figures mean nothing beside each other.
fn comparable(args: &Args, ours: &EvalModel, theirs: &EvalModel, exits: &Exits) -> Result<()> {
    let shape = |subject: &EvalModel| {
        let config = subject.model.config();
        (config.vocab, config.d_model)
    };
    ensure!(
        shape(ours) == shape(theirs),
        "{} and {} differ in vocabulary or width, {:?} and {:?}: token by token they cannot be compared",
        ours.name,
        theirs.name,
        shape(ours),
        shape(theirs)
    );
    let answering = match (&args.judge_exits, &args.answer_exits) {
        _ if args.positions > 0 => vec![exits],
        (judged, answering) => judged.iter().chain(answering).collect(),
    };
    for subject in [ours, theirs] {
        for exits in &answering {
            subject
                .check_answers(exits)
                .context("add --positions 0 and name --judge-exits and --answer-exits")?;
        }
    }
    if let Some(judged) = &args.judge_exits {
        ensure!(
            judged.last() == exits.last(),
            "--judge-exits {judged}: responses are compared with the full depth's, the last must be {}",
            exits.last()
        );
    }
    Ok(())
}

impl Args {
    fn records(&self) -> Result<Vec<Record>> {
        let mut records = match (&self.data, self.format) {
            (Some(path), Some(format)) => format.read(path)?,
            _ => Vec::new(),
        };
        records.truncate(self.limit.unwrap_or(usize::MAX));
        Ok(records)
    }

    fn read_instructions(&self) -> Result<Vec<Instruction>> {
        let mut instructions = match &self.instructions {
            Some(path) => read_instructions(path)?,
            None => Vec::new(),
        };
        instructions.truncate(self.instructions_limit.unwrap_or(usize::MAX));
        Ok(instructions)
    }
}

/// A comparison on its way.
struct Comparison<'a> {
    args: &'a Args,
    ours: EvalModel,
    theirs: EvalModel,
    exits: Exits,
    records: Vec<Record>,
    instructions: Vec<Instruction>,
    journal: Journal,
    findings: Vec<Finding>,
}

impl Comparison<'_> {
    /// What tables call the rows.
    fn rows_name(&self) -> String {
        let stem = self.args.data.as_ref().and_then(|path| path.file_stem());
        let stem = stem.unwrap_or_default().to_string_lossy();
        format!("{stem}, {} rows", self.records.len())
    }

    /// What tables call the instructions.
    fn instructions_name(&self) -> String {
        let stem = self
            .args
            .instructions
            .as_ref()
            .and_then(|path| path.file_stem());
        let stem = stem.unwrap_or_default().to_string_lossy();
        format!("{stem}, {} instructions", self.instructions.len())
    }

    /// Losses, accuracy and answers of both at every exit, in pairs.
    fn differences(&mut self) -> Result<()> {
        if self.records.is_empty() {
            return Ok(());
        }
        let (mut encoded, mut spelt) = (Vec::new(), BTreeMap::new());
        for subject in [&self.ours, &self.theirs] {
            let longest = self.args.max_len.min(subject.model.config().max_positions);
            let (examples, report) = encode(&self.records, &subject.tokenizer, longest)?;
            encoded.push(examples);
            spelt = report.control_text;
        }
        warn_of_control_text(&spelt);
        ensure!(
            encoded[0] == encoded[1],
            "{} and {} read the rows as different tokens: their losses cannot be compared row by row",
            self.ours.name,
            self.theirs.name
        );
        let batches = ordered_batches(&encoded[0], self.args.batch)?;
        let mut scores = Vec::new();
        for subject in [&self.ours, &self.theirs] {
            let mut progress = Progress::new("scoring", batches.len() as u64, 0);
            let step = || progress.step(&subject.name);
            scores.push(subject.row_scores(&self.exits, &batches, &mut self.journal, step)?);
            progress.finish();
        }
        let mut rows = Vec::new();
        for (index, exit) in self.exits.clone().iter().enumerate() {
            let row = DifferenceRow::of(exit, &scores[0][index], &scores[1][index]);
            let mut row = row.context("the rows have no token to compare")?;
            row.answers = self.answer_difference(exit)?;
            rows.push(row);
        }
        print_differences(&self.ours.name, &self.theirs.name, &rows);
        self.findings.push(Finding::Difference(DifferenceTable {
            ours: self.ours.name.clone(),
            theirs: self.theirs.name.clone(),
            data: self.rows_name(),
            rows,
        }));
        Ok(())
    }

    /// How much better ours answers the questions at this exit; none where none are asked.
    fn answer_difference(&mut self, exit: Exit) -> Result<Option<AnswerDifference>> {
        let asked = match &self.args.answer_exits {
            Some(exits) => exits.contains(exit),
            None => exit == self.exits.last(),
        };
        if self.args.format != Some(Format::TriviaQa) || !asked {
            return Ok(None);
        }
        let mut scores = Vec::new();
        for subject in [&self.ours, &self.theirs] {
            let prompts = self.records.iter();
            let prompts = prompts.map(|record| encode_prompt(record, &subject.tokenizer));
            let prompts = prompts.collect::<Result<Vec<_>, _>>()?;
            let mode = format!("exit={exit}");
            let answers = answers(
                subject,
                (self.args, &self.exits),
                &prompts,
                &mode,
                &mut self.journal,
            )?;
            let texts = answers.iter().map(|answer| subject.text(answer));
            let texts = texts
                .map(|text| Ok(first_line(&text?)))
                .collect::<Result<Vec<_>>>()?;
            scores.push(trivia_scores(&self.records, &texts));
        }
        Ok(AnswerDifference::of(&scores[0], &scores[1]))
    }

    /// Tokens of the prompts whose answers are looked at position by position.
    fn prompts(&self, subject: &EvalModel) -> Result<Vec<Vec<u32>>> {
        if self.instructions.is_empty() {
            let prompts = self
                .records
                .iter()
                .map(|record| encode_prompt(record, &subject.tokenizer));
            return Ok(prompts.collect::<Result<_, _>>()?);
        }
        let texts = self.instructions.iter();
        let texts = texts.map(|asked| alpaca_prompt(&asked.instruction, &asked.input));
        Ok(texts
            .map(|text| subject.tokenizer.encode_start(&text))
            .collect::<Result<_, _>>()?)
    }

    /// The paper's four pairings of exits and full models.
    fn agreement(&mut self) -> Result<()> {
        if self.args.positions == 0 || self.records.is_empty() && self.instructions.is_empty() {
            return Ok(());
        }
        let data = if self.instructions.is_empty() {
            self.rows_name()
        } else {
            self.instructions_name()
        };
        let full = format!("exit={}", self.exits.last());
        let mut rows = Vec::new();
        for reference in [&self.ours, &self.theirs] {
            let prompts = self.prompts(reference)?;
            let answers = answers(
                reference,
                (self.args, &self.exits),
                &prompts,
                &full,
                &mut self.journal,
            )?;
            let texts = prompts.into_iter().zip(answers);
            let texts = texts.map(|(prompt, answer)| AnsweredPrompt {
                prompt,
                answer: answer.tokens,
                ended: answer.ended,
            });
            let texts: Vec<_> = texts.collect();
            for subject in [&self.ours, &self.theirs] {
                let table = AgreementTable {
                    model: subject.name.clone(),
                    reference: reference.name.clone(),
                    data: data.clone(),
                    exits: pairing(
                        subject,
                        reference,
                        self.args,
                        (&self.exits, &texts),
                        &mut self.journal,
                    )?,
                };
                rows.extend(agreement_rows(&table));
                self.findings.push(Finding::Agreement(table));
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
        Ok(())
    }

    /// Responses of every pair of exits, and the judge's own quality.
    fn judged(&mut self, mut judging: judging::Judging) -> Result<()> {
        if !self.instructions.is_empty() {
            let exits = self
                .args
                .judge_exits
                .clone()
                .unwrap_or_else(|| self.exits.clone());
            let mut responses = Vec::new();
            for subject in [&self.ours, &self.theirs] {
                let prompts = self.prompts(subject)?;
                let mut of_exits = Vec::new();
                for exit in exits.iter() {
                    let mode = format!("exit={exit}");
                    let answers = answers(
                        subject,
                        (self.args, &self.exits),
                        &prompts,
                        &mode,
                        &mut self.journal,
                    )?;
                    let texts = answers.iter().map(|answer| subject.text(answer));
                    of_exits.push((exit, texts.collect::<Result<Vec<_>>>()?));
                }
                responses.push((subject.name.clone(), of_exits));
            }
            let data = self.instructions_name();
            let finding = judging.judge(&data, &self.instructions, &responses)?;
            self.findings.push(finding);
        }
        self.findings.extend(judging.quality(self.args)?);
        Ok(())
    }

    /// Answers of every exit of both to a few prompts.
    fn samples(&mut self) -> Result<()> {
        let of_rows = self.instructions.is_empty();
        let asked: Vec<(String, Option<String>)> = if of_rows {
            self.records
                .iter()
                .filter_map(|record| record.trivia.as_ref())
                .map(|question| (question.question.clone(), Some(question.answer.clone())))
                .collect()
        } else {
            self.instructions
                .iter()
                .map(|asked| {
                    (
                        format!("{}\n{}", asked.instruction, asked.input)
                            .trim()
                            .to_owned(),
                        None,
                    )
                })
                .collect()
        };
        let shown = asked.len().min(SAMPLES);
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); shown];
        for subject in [&self.ours, &self.theirs] {
            let mut prompts = self.prompts(subject)?;
            prompts.truncate(shown);
            let with_blocks = subject.model.exits_with_blocks();
            let exits = self.exits.iter().filter(|exit| !with_blocks.contains(exit));
            let mut modes: Vec<String> = exits.map(|exit| format!("exit={exit}")).collect();
            if with_blocks.is_empty() && self.exits.len() > 1 {
                modes.push("dynamic".to_owned());
            }
            for mode in modes {
                let answers = answers(
                    subject,
                    (self.args, &self.exits),
                    &prompts,
                    &mode,
                    &mut self.journal,
                )?;
                for ((samples, prompt), answer) in samples.iter_mut().zip(&prompts).zip(&answers) {
                    samples.push(subject.sample(&mode, prompt, answer)?);
                }
            }
        }
        for ((prompt, wanted), answers) in asked.into_iter().zip(samples) {
            self.findings.push(Finding::Samples(SampleTable {
                prompt,
                wanted,
                depth: self.exits.last().depth(),
                answers,
            }));
        }
        Ok(())
    }
}

/// Exits of one model beside the full depth of another, on the other's answers.
fn pairing(
    subject: &EvalModel,
    reference: &EvalModel,
    args: &Args,
    (exits, texts): (&Exits, &[AnsweredPrompt]),
    journal: &mut Journal,
) -> Result<Vec<ExitAgreement>> {
    let content = texts.iter().flat_map(|text| {
        let ends = [text.prompt.len() as u32, text.decisions() as u32];
        ends.into_iter()
            .chain(text.prompt.iter().chain(&text.answer).copied())
    });
    let content: Vec<u32> = content.collect();
    let how = format!(
        "agreement/{exits}/{}/{}",
        args.positions,
        reference.key("of", &[])
    );
    let key = subject.key(&how, &content);
    if let Some(known) = journal.get(&key)? {
        return Ok(known);
    }
    let mut progress = Progress::new("agreement", texts.len() as u64, 0);
    let name = format!("{} exits, {} full depth", subject.name, reference.name);
    // The same weights are read once.
    let other = if subject.name == reference.name {
        subject
    } else {
        reference
    };
    let pairing = Pairing {
        model: &subject.model,
        reference: &other.model,
        exits,
        positions: args.positions,
    };
    let step = || progress.step(&name);
    let found = pairing.agreement(texts, step)?;
    progress.finish();
    journal.record(&key, &found)?;
    Ok(found)
}

/// Greedy answers of one mode, from the journal as far as it has them.
fn answers(
    subject: &EvalModel,
    (args, exits): (&Args, &Exits),
    prompts: &[Vec<u32>],
    mode: &str,
    journal: &mut Journal,
) -> Result<Vec<Answer>> {
    let questions = Questions {
        prompts,
        exits: Some(exits),
        max_new_tokens: args.max_new_tokens,
        batch: args.batch,
    };
    let mut progress = Progress::new("answering", prompts.len() as u64, 0);
    let message = format!("{} {mode}", subject.name);
    let answers = subject.answers(mode, &questions, journal, || progress.step(&message))?;
    progress.finish();
    Ok(answers)
}
