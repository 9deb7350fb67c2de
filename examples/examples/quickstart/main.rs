//! Fine-tunes a small LLaMA by three methods at equal cost and evaluates them at every exit.
//!
//! It starts from `examples/tiny-llama`, made by `soft pretrain-tiny`, and downloads nothing. The
//! methods are those of tables 1 and 2 of Sorted LLaMA: SFT, SFT+ICT (one more head per exit,
//! blocks frozen) and SoFT. The prompts of the evaluation are held out from fine-tuning. At the
//! end, `report.rs` writes a report of what the subcommands of `soft` measure.

mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use soft_burn::burn::tensor::Device;
use soft_burn::{
    AdamWSettings, Decay, Llama, LogLine, Method, Run, RunData, RunSettings, Schedule,
    TrainSettings, device, keep_freed_memory,
};
use soft_core::model::ScoreSum;
use soft_core::{Batch, Exits};
use soft_data::{Loader, LoaderConfig, Record, Tokenizer, encode, encode_prompt, ordered_batches};
use soft_eval::results::{AnswerRow, ExitRow};
use soft_eval::{AnswerScore, Baseline, Baselines, Journal, row_scores};
use soft_examples::eval_model::{Answer, EvalModel, NamedFolder, Questions};
use soft_examples::outln;
use soft_examples::progress::Progress;
use soft_examples::table::table;
use soft_examples::terminal;
use soft_examples::tiny_world::{Instruction, Split, World, vocabulary};
use soft_examples::tokens::TokenArgs;

/// Seed of the world of the pre-training text.
const WORLD: u64 = 7;
const BATCH: usize = 32;
/// Optimizer steps of each method.
const STEPS: u64 = 360;
/// Maximum number of tokens of an answer.
const ANSWER: usize = 12;

fn main() -> ExitCode {
    terminal::run(run)
}

fn run() -> Result<()> {
    keep_freed_memory();
    let base = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tiny-llama");
    ensure!(
        base.exists(),
        "{} is missing: the repository holds it",
        base.display()
    );
    let out = new_run_folder()?;
    let quickstart = Quickstart::new(&base, &out)?;
    outln!(
        "SoFT quickstart: a LLaMA of 8 blocks, fine-tuned three ways, evaluated at exits {}",
        quickstart.exits
    );
    outln!(
        "{} instructions to learn, {} held out\n",
        quickstart.train.len(),
        quickstart.held_out.len()
    );

    // Equal cost: SFT+ICT takes half of its steps for SFT and half for the heads.
    let sft = quickstart.train("sft", Method::sft(), STEPS, &base)?;
    let half = quickstart.train("sft-half", Method::sft(), STEPS / 2, &base)?;
    let ict = quickstart.train("sft+ict", Method::ict(), STEPS / 2, &half)?;
    let soft = quickstart.train("soft", Method::soft(), STEPS, &base)?;

    let models = [
        ("untuned", &base),
        ("SFT", &sft),
        ("SFT+ICT", &ict),
        ("SoFT", &soft),
    ];
    let measured = models.map(|(name, folder)| quickstart.measure(name, folder));
    let measured = measured.into_iter().collect::<Result<Vec<_>>>()?;
    print_scores(&quickstart.exits, &measured);
    quickstart.print_answers(&measured);
    outln!(
        "\nSFT+ICT takes half of its steps for SFT and half for the heads: all three take as many steps."
    );
    let report = quickstart.report(&measured, &soft)?;
    outln!("model:  {}", soft.display());
    outln!("log:    {}", out.join("soft/log.jsonl").display());
    outln!("report: {}", report.display());
    outln!(
        "\nnow let its first blocks draft for the rest:\n  cargo run --release --bin soft -- generate --model {} --mode speculative \\\n      --prompt {:?}",
        soft.display(),
        "question : put in order the words lemon egg icing . answer :"
    );
    Ok(())
}

/// A new folder `runs/quickstart-N`, where N is the Unix time in seconds.
fn new_run_folder() -> Result<PathBuf> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let folder = PathBuf::from(format!("runs/quickstart-{seconds}"));
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

struct Quickstart {
    out: PathBuf,
    device: Device,
    exits: Exits,
    tokenizer: Tokenizer,
    train: Vec<Record>,
    held_out: Vec<Instruction>,
    held_out_records: Vec<Record>,
    validation: Vec<Batch>,
    /// What can be known without reading the prompt.
    baselines: Baselines,
}

/// Scores and answers of one model at every exit.
struct Measured {
    subject: EvalModel,
    /// Sums of scores, `[exit][held-out row]`.
    rows: Vec<Vec<ScoreSum>>,
    scores: Vec<ExitRow>,
    /// Answers to all held-out prompts, `[exit][prompt]`.
    answers: Vec<Vec<Answer>>,
    texts: Vec<Vec<String>>,
    answer_scores: Vec<AnswerRow>,
}

impl Quickstart {
    fn new(base: &Path, out: &Path) -> Result<Self> {
        let world = World::new(WORLD);
        let tokenizer = Tokenizer::from_folder(base, vocabulary().len())?;
        let held_out = world.instructions(Split::HeldOut);
        let held_out_records = records(&held_out);
        let (examples, _) = encode(&held_out_records, &tokenizer, 128)?;
        let train = records(&world.instructions(Split::Train));
        let (learnt, _) = encode(&train, &tokenizer, 128)?;
        let learnt = ordered_batches(&learnt, BATCH)?;
        Ok(Self {
            out: out.to_owned(),
            device: device("cpu")?,
            exits: "2:8:2".parse()?,
            baselines: Baselines::fit(&learnt, vocabulary().len())?,
            train,
            validation: ordered_batches(&examples, BATCH)?,
            tokenizer,
            held_out,
            held_out_records,
        })
    }

    fn load(&self, folder: &Path) -> Result<Llama> {
        Ok(Llama::from_pretrained(folder, &self.device)?)
    }

    /// Trains `base` by `method` and returns the folder of the result.
    fn train(&self, name: &str, method: Method, steps: u64, base: &Path) -> Result<PathBuf> {
        let (examples, _) = encode(&self.train, &self.tokenizer, 128)?;
        let loader = LoaderConfig {
            batch_size: BATCH,
            ..LoaderConfig::default()
        };
        let loader = Loader::new(examples, loader)?;
        let train = TrainSettings {
            schedule: Schedule {
                peak: 1e-3,
                warmup_steps: 20,
                decay: Decay::Cosine,
            },
            optimizer: AdamWSettings {
                weight_decay: 0.01,
                ..AdamWSettings::default()
            },
            ..TrainSettings::new(method, self.exits.clone(), steps)
        };
        let settings = RunSettings {
            train,
            validate_every: Some(steps / 2),
            checkpoint_every: None,
            keep_checkpoints: 1,
            base: base.to_owned(),
            provenance: serde_json::json!({ "data": "tiny world", "world": WORLD }),
        };
        let out = self.out.join(name);
        let data = RunData {
            stream: loader,
            validation: self.validation.clone(),
        };
        let mut run = Run::start(&out, self.load(base)?, settings, data)?;
        let mut progress = Progress::new(&format!("{name:>8}"), steps, 0);
        for line in run.by_ref() {
            if let LogLine::Train(report) = line? {
                let last = report.exits.last().map_or(f64::NAN, |exit| exit.loss);
                progress.step(&format!("loss {:.3}, deepest exit {last:.3}", report.loss));
            }
        }
        progress.finish();
        Ok(run.finish()?.0)
    }

    fn measure(&self, name: &str, folder: &Path) -> Result<Measured> {
        let named = NamedFolder {
            name: name.to_owned(),
            folder: folder.to_owned(),
        };
        let subject = EvalModel::load(&named, &self.device, &TokenArgs::default())?;
        let validation = (&self.validation[..], self.tokenizer.stop_tokens());
        let rows = row_scores(&subject.model, &self.exits, validation, || ())?;
        let prompts = self.prompts()?;
        let questions = Questions {
            exits: Some(&self.exits),
            prompts: &prompts,
            max_new_tokens: ANSWER,
            batch: 96,
        };
        let (mut answers, mut texts, mut answer_scores) = (Vec::new(), Vec::new(), Vec::new());
        for exit in self.exits.iter() {
            let mode = format!("exit={exit}");
            let of_exit = subject.answers(&mode, &questions, &mut Journal::unsaved(), || ())?;
            let said = of_exit.iter().map(|answer| subject.text(answer));
            let said = said.collect::<Result<Vec<_>>>()?;
            let pairs = said.iter().zip(&self.held_out);
            let scores = pairs.map(|(said, asked)| AnswerScore::of(said, &[&asked.response]));
            let row = AnswerRow::of(mode, Some(exit), &scores.collect::<Vec<_>>());
            answer_scores.push(row.context("nothing is held out")?);
            answers.push(of_exit);
            texts.push(said);
        }
        let bigram = self.baselines.row_scores(Baseline::Bigram, validation);
        let scores = self.exits.iter().zip(&rows);
        let scores = scores.map(|(exit, rows)| ExitRow::of(exit, rows).beside(rows, &bigram));
        Ok(Measured {
            scores: scores.collect(),
            subject,
            rows,
            answers,
            texts,
            answer_scores,
        })
    }

    fn prompts(&self) -> Result<Vec<Vec<u32>>> {
        let prompts = self.held_out_records.iter();
        let prompts = prompts.map(|record| encode_prompt(record, &self.tokenizer));
        Ok(prompts.collect::<Result<_, _>>()?)
    }

    /// The first held-out prompt of each of three kinds.
    fn shown(&self) -> Vec<usize> {
        let mut shown: Vec<usize> = Vec::new();
        for (index, asked) in self.held_out.iter().enumerate() {
            let known = |&other: &usize| self.held_out[other].task == asked.task;
            if shown.len() < 3 && !shown.iter().any(known) {
                shown.push(index);
            }
        }
        shown
    }

    /// Prints a few held-out prompts with the answers of each exit after SFT and SoFT.
    fn print_answers(&self, measured: &[Measured]) {
        for index in self.shown() {
            let asked = &self.held_out[index];
            outln!("\n{} [{}]", asked.prompt, asked.response);
            for measured in tuned(measured) {
                for (exit, texts) in self.exits.iter().zip(&measured.texts) {
                    let text = &texts[index];
                    let mark = if text.trim() == asked.response {
                        "✓"
                    } else {
                        " "
                    };
                    outln!("  {mark} {:<5} exit {exit}: {text}", measured.subject.name);
                }
            }
        }
    }
}

/// The models whose answers are compared.
fn tuned(measured: &[Measured]) -> impl Iterator<Item = &Measured> {
    let wanted = |measured: &&Measured| ["SFT", "SoFT"].contains(&measured.subject.name.as_str());
    measured.iter().filter(wanted)
}

fn records(instructions: &[Instruction]) -> Vec<Record> {
    let numbered = instructions.iter().enumerate();
    numbered
        .map(|(row, asked)| {
            Record::completion(row + 1, &asked.prompt, format!(" {}", asked.response))
        })
        .collect()
}

fn print_scores(exits: &Exits, measured: &[Measured]) {
    let headings = ["method", "exit", "loss", "accuracy %", "exact match %"];
    let mut rows = Vec::new();
    for measured in measured {
        for (index, exit) in exits.iter().enumerate() {
            let scores = &measured.scores[index].scores;
            let exact = measured.answer_scores[index].exact_match.estimate;
            rows.push(vec![
                measured.subject.name.clone(),
                exit.to_string(),
                format!("{:.3}", scores.loss),
                format!("{:.1}", 100.0 * scores.accuracy),
                format!("{:.1}", 100.0 * exact),
            ]);
        }
    }
    outln!("\non held-out prompts:\n{}", table(&headings, rows));
}
