//! `soft compare`: compares two checkpoints as Sorted LLaMA does.
//!
//! Paired losses and answers of every exit, including the full-depth tax; KL divergence and cosine
//! similarity of every exit with either full model by output position (section 5); responses to
//! instructions, judged in both orders (section 4).

mod agreement;
mod args;
mod differences;
mod judging;
mod responses;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use soft_core::Exits;
use soft_data::{Instruction, Record, alpaca_prompt, encode_prompt};
use soft_eval::Journal;
use soft_examples::decoding::exits_of;
use soft_examples::eval_model::{Answer, EvalModel, Questions};
use soft_examples::evaluation::Recorder;
use soft_examples::progress::Progress;

pub use args::Args;
use judging::Judging;

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
    check_comparable(&args, &ours, &theirs, &exits)?;
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
        Some(judge) => Some(Judging::begin(&args, &judge, &mut recorder)?),
        None => None,
    };
    let mut journal = args.output.open_journal("compare", &args.device.name())?;
    let comparison = Comparison {
        records: args.records()?,
        instructions: args.read_instructions()?,
        args: &args,
        ours,
        theirs,
        exits,
    };
    let mut findings = Vec::from_iter(comparison.differences(&mut journal)?);
    findings.extend(comparison.agreement(&mut journal)?);
    if let Some(judging) = judging {
        findings.extend(comparison.judged(judging, &mut journal)?);
    }
    findings.extend(comparison.samples(&mut journal)?);
    args.output.save(&recorder.finish(findings))
}

/// Refuses models that cannot be compared, before anything is computed.
fn check_comparable(
    args: &Args,
    ours: &EvalModel,
    theirs: &EvalModel,
    exits: &Exits,
) -> Result<()> {
    let shape = |model: &EvalModel| {
        let config = model.model.config();
        (config.vocab, config.d_model)
    };
    ensure!(
        shape(ours) == shape(theirs),
        "{} and {} differ in vocabulary or width, {:?} and {:?}: they cannot be compared token by token",
        ours.name,
        theirs.name,
        shape(ours),
        shape(theirs)
    );
    if let Some(judged) = &args.judge_exits {
        ensure!(
            judged.last() == exits.last(),
            "--judge-exits {judged}: responses are compared with the full depth's, the last must be {}",
            exits.last()
        );
    }
    Ok(())
}

struct Comparison<'a> {
    args: &'a Args,
    ours: EvalModel,
    theirs: EvalModel,
    exits: Exits,
    records: Vec<Record>,
    instructions: Vec<Instruction>,
}

impl Comparison<'_> {
    fn models(&self) -> [&EvalModel; 2] {
        [&self.ours, &self.theirs]
    }

    fn rows_name(&self) -> String {
        let stem = self.args.data.as_deref().and_then(Path::file_stem);
        let stem = stem.unwrap_or_default().to_string_lossy();
        format!("{stem}, {} rows", self.records.len())
    }

    fn instructions_name(&self) -> String {
        let stem = self.args.instructions.as_deref().and_then(Path::file_stem);
        let stem = stem.unwrap_or_default().to_string_lossy();
        format!("{stem}, {} instructions", self.instructions.len())
    }

    fn row_prompts(&self, model: &EvalModel) -> Result<Vec<Vec<u32>>> {
        let prompts = self.records.iter();
        let prompts = prompts.map(|record| encode_prompt(record, &model.tokenizer));
        Ok(prompts.collect::<Result<_, _>>()?)
    }

    /// Tokens of the instructions, or of the prompts of the rows without instructions.
    fn prompts(&self, model: &EvalModel) -> Result<Vec<Vec<u32>>> {
        if self.instructions.is_empty() {
            return self.row_prompts(model);
        }
        let texts = self.instructions.iter();
        let texts = texts.map(|asked| alpaca_prompt(&asked.instruction, &asked.input));
        Ok(texts
            .map(|text| model.tokenizer.encode_start(&text))
            .collect::<Result<_, _>>()?)
    }

    /// Greedy answers in a mode, reused from the journal if possible.
    fn answers(
        &self,
        model: &EvalModel,
        prompts: &[Vec<u32>],
        mode: &str,
        journal: &mut Journal,
    ) -> Result<Vec<Answer>> {
        let questions = Questions {
            prompts,
            exits: Some(&self.exits),
            max_new_tokens: self.args.max_new_tokens,
            batch: self.args.batch,
        };
        let mut progress = Progress::new("answering", prompts.len() as u64, 0);
        let message = format!("{} {mode}", model.name);
        let answers = model.answers(mode, &questions, journal, || progress.step(&message))?;
        progress.finish();
        Ok(answers)
    }
}
