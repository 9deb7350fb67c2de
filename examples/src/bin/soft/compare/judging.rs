//! The judge of `soft compare`: judges pairs of responses, and is itself compared with people.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result};
use soft_core::Exit;
use soft_data::{Conversation, Instruction, alpaca_prompt};
use soft_eval::numbers::{percent, percent_interval};
use soft_eval::results::{Finding, JudgeQualityTable, JudgedRow, JudgedTable};
use soft_eval::{
    ChatJudge, ChatSettings, Comparison, EvalError, HumanVerdict, Judge, Judgement, Pair,
    ResponseLikelihood, VerdictFile, VerdictLikelihood, judge_pairs, judge_quality, read_pandalm,
};
use soft_examples::eval_model::{EvalModel, NamedFolder};
use soft_examples::evaluation::Recorder;
use soft_examples::outln;
use soft_examples::progress::Progress;
use soft_examples::table::table;

use super::args::{Args, JudgeChoice};

/// A judge and the file of its verdicts.
pub struct Judging {
    judge: Option<Box<dyn Judge>>,
    name: String,
    verdicts: VerdictFile,
    /// Pairs with verdicts of people, to measure the judge.
    people: Vec<HumanVerdict>,
}

/// A model's name, and its responses by exit.
pub type Responses = (String, Vec<(Exit, Vec<String>)>);

impl Judging {
    /// Loads the judge and opens the file of verdicts.
    pub fn begin(args: &Args, choice: &JudgeChoice, recorder: &mut Recorder) -> Result<Self> {
        let path = args.verdicts.as_ref().context("--judge needs --verdicts")?;
        let mut load = |folder: &NamedFolder| -> Result<ModelJudge> {
            let judge = ModelJudge::load(folder, args)?;
            recorder.model(&judge.subject);
            Ok(judge)
        };
        // In the file, a judge is identified by what determines its verdicts, not by its name.
        let (judge, name, identity): (Option<Box<dyn Judge>>, String, String) = match choice {
            JudgeChoice::File => (None, "people".to_owned(), "people".to_owned()),
            JudgeChoice::Chat(model) => {
                let settings = ChatSettings {
                    key: std::env::var("OPENAI_API_KEY").ok(),
                    timeout: Duration::from_secs(args.timeout),
                    attempts: args.attempts,
                    ..ChatSettings::new(&args.url, model)
                };
                let identity = format!("{model} at {}", args.url);
                (
                    Some(Box::new(ChatJudge::new(settings))),
                    model.clone(),
                    identity,
                )
            }
            JudgeChoice::Verdict(folder) => {
                let judge = load(folder)?;
                let identity = judge.subject.key("verdict", &[]);
                (
                    Some(Box::new(Asked(judge))),
                    format!("{} asked", folder.name),
                    identity,
                )
            }
            JudgeChoice::Response(folder) => {
                let judge = load(folder)?;
                let identity = judge.subject.key("response", &[]);
                let name = format!("likelihood under {}", folder.name);
                (
                    Some(Box::new(Likelier(judge, HashMap::new()))),
                    name,
                    identity,
                )
            }
        };
        let mut people = match &args.people {
            Some(path) => read_pandalm(path)?,
            None => Vec::new(),
        };
        people.truncate(args.people_limit.unwrap_or(usize::MAX));
        Ok(Self {
            people,
            judge,
            name,
            verdicts: VerdictFile::open(path, identity)?,
        })
    }

    /// Judges every exit of the first model against the same exit and the full depth of the second.
    pub fn judge(
        &mut self,
        data: &str,
        instructions: &[Instruction],
        responses: &[Responses],
    ) -> Result<Finding> {
        let [(ours, our_exits), (theirs, their_exits)] = responses else {
            anyhow::bail!("expected the responses of two models");
        };
        let mut matches = Vec::new();
        for (index, (exit, texts)) in our_exits.iter().enumerate() {
            let full = their_exits.len() - 1;
            for opponent in [index, full] {
                if opponent == index || index != full {
                    matches.push((*exit, texts, &their_exits[opponent]));
                }
            }
        }
        matches.dedup_by_key(|(exit, _, (their_exit, _))| (*exit, *their_exit));
        let mut progress = Progress::new("judging", (matches.len() * instructions.len()) as u64, 0);
        let mut rows = Vec::new();
        for (exit, our_texts, (their_exit, their_texts)) in matches {
            let texts = instructions.iter().zip(our_texts).zip(their_texts);
            let pairs: Vec<Pair> = texts
                .map(|((asked, ours), theirs)| Pair {
                    instruction: asked.instruction.clone(),
                    input: asked.input.clone(),
                    ours: ours.trim().to_owned(),
                    theirs: theirs.trim().to_owned(),
                })
                .collect();
            let judge = self.judge.as_mut().map(|judge| judge as &mut dyn Judge);
            let score = judge_pairs(&pairs, judge, &mut self.verdicts, || {
                progress.step(&self.name)
            })?;
            rows.push(JudgedRow {
                ours: ours.clone(),
                exit,
                theirs: theirs.clone(),
                their_exit: *their_exit,
                score,
            });
        }
        progress.finish();
        outln!(
            "\njudged by {}\n{}",
            self.name,
            table(&JudgedRow::HEADINGS, rows.iter().map(JudgedRow::cells))
        );
        Ok(Finding::Judged(JudgedTable {
            judge: self.name.clone(),
            data: data.to_owned(),
            rows,
        }))
    }

    /// Compares the judge with people, if there are verdicts of people.
    pub fn quality(&mut self, args: &Args) -> Result<Option<Finding>> {
        let (Some(path), Some(judge)) = (&args.people, &mut self.judge) else {
            return Ok(None);
        };
        let people = &self.people;
        let mut progress = Progress::new("judging", people.len() as u64, 0);
        let quality = judge_quality(people, judge, &mut self.verdicts, || {
            progress.step("people's pairs")
        })?;
        progress.finish();
        outln!(
            "\n{} beside people: {} % like the majority of {} pairs, kappa {:.2}; {} % like two \
             annotators that agree, the third annotator {} %; kappa of two annotators {:.2}",
            self.name,
            percent(quality.accuracy.estimate),
            quality.pairs,
            quality.kappa,
            percent_interval(&quality.leave_one_out),
            percent_interval(&quality.human_leave_one_out),
            quality.human_kappa,
        );
        let data = path.file_stem().unwrap_or_default().to_string_lossy();
        Ok(Some(Finding::JudgeQuality(JudgeQualityTable {
            judge: self.name.clone(),
            data: data.into_owned(),
            quality,
        })))
    }
}

struct ModelJudge {
    subject: EvalModel,
}

struct Asked(ModelJudge);

/// A model whose likelihoods of the responses are compared; known ones are kept.
struct Likelier(ModelJudge, HashMap<(String, String), f64>);

impl ModelJudge {
    fn load(folder: &NamedFolder, args: &Args) -> Result<Self> {
        let subject = EvalModel::load(folder, args.device.open()?, &args.tokens)?;
        Ok(Self { subject })
    }

    /// Encodes the prompt as the user's turn and the continuation as the beginning of the
    /// assistant's.
    fn encode_turn(
        &self,
        prompt: &str,
        continuation: &str,
    ) -> Result<(Vec<u32>, Vec<u32>), String> {
        let tokenizer = &self.subject.tokenizer;
        if tokenizer.chat_template().is_default() {
            // A model without a template was probably not trained on chats.
            return self.encode_text(prompt, continuation);
        }
        let tokens = || -> Result<_> {
            let question = Conversation::question(prompt);
            let continuation = tokenizer.encode_continuation(continuation.trim_start())?;
            Ok((tokenizer.encode_chat(&question)?, continuation))
        };
        tokens().map_err(|error| error.to_string())
    }

    fn encode_text(
        &self,
        prompt: &str,
        continuation: &str,
    ) -> Result<(Vec<u32>, Vec<u32>), String> {
        let tokenizer = &self.subject.tokenizer;
        let tokens = || -> Result<_> {
            Ok((
                tokenizer.encode_start(prompt)?,
                tokenizer.encode_continuation(continuation)?,
            ))
        };
        tokens().map_err(|error| error.to_string())
    }
}

impl Judge for Asked {
    fn compare(&mut self, comparison: &Comparison) -> Result<Judgement, EvalError> {
        let encode = |prompt: &str, continuation: &str| self.0.encode_turn(prompt, continuation);
        let model = &self.0.subject.model;
        VerdictLikelihood { model, encode }.compare(comparison)
    }
}

impl Judge for Likelier {
    fn compare(&mut self, comparison: &Comparison) -> Result<Judgement, EvalError> {
        let encode = |prompt: &str, continuation: &str| self.0.encode_text(prompt, continuation);
        let mut judge = ResponseLikelihood {
            model: &self.0.subject.model,
            encode,
            prompt: alpaca_prompt,
            margin: 0.0,
            known: &mut self.1,
        };
        judge.compare(comparison)
    }
}
