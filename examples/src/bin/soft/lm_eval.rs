//! `soft lm-eval`: tasks of lm-evaluation-harness at every exit of a model, scored as the harness
//! does, with its result files.
//!
//! Control tokens in texts are encoded as such, as in the harness. Differs from it: a row longer
//! than the model's context loses one more token on the left, since the token scored last is part
//! of the pass here.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};
use soft_core::{Batch, DecodeSettings, Decoder, Example, Exit, Exits, Mode, Prompt};
use soft_data::{StopStrings, TextStream, Tokenizer};
use soft_eval::lm_eval::{
    Asked, DELIMITER, Document, MAX_NEW_TOKENS, Results, STOPS, Sample, Task, choice_scores,
    matches_any,
};
use soft_eval::numbers::percent;
use soft_eval::row_scores;
use soft_examples::device::PlaceArgs;
use soft_examples::model::{ModelArgs, OpenModel};
use soft_examples::outln;
use soft_examples::progress::Progress;
use soft_examples::table::table;
use soft_examples::tokens::TokenArgs;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Model folder; with the feature `hub` also `org/name[@revision]`
    #[arg(long)]
    model: PathBuf,
    #[command(flatten)]
    place: PlaceArgs,
    /// Task: arc_easy, arc_challenge, boolq, hellaswag, piqa or triviaqa
    #[arg(long)]
    task: Task,
    /// The data set: JSON lines with the keys it has on the Hugging Face hub; for triviaqa also the
    /// official file
    #[arg(long)]
    data: PathBuf,
    /// Exits to score [default: those of the folder's soft.json, else the full depth]
    #[arg(long)]
    exits: Option<Exits>,
    /// Use the first N rows only
    #[arg(long)]
    limit: Option<usize>,
    /// Rows, or choices of rows, per pass
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// New folder for lm-eval's files, one folder per exit
    #[arg(long)]
    out: Option<PathBuf>,
}

pub fn run(args: Args) -> Result<()> {
    ensure!(args.batch > 0, "--batch is 0: expected at least 1");
    ensure!(args.limit != Some(0), "--limit is 0: expected at least 1");
    if let Some(out) = &args.out {
        ensure!(
            !out.exists(),
            "{} is there already: name a new folder",
            out.display()
        );
    }
    let mut documents = args.task.read(&args.data)?;
    let rows = documents.len();
    documents.truncate(args.limit.unwrap_or(rows));
    let source = ModelArgs {
        model: args.model.clone(),
        tokens: TokenArgs {
            control_tokens: true,
        },
        place: args.place.clone(),
    };
    let model = source.open()?;
    let depth = model.model.config().n_layers;
    let exits = match (&args.exits, &model.trained.exits) {
        (Some(exits), _) | (None, Some(exits)) => exits.clone(),
        (None, None) => Exits::new([depth])?,
    };
    exits.check_within(depth)?;
    let run = Run {
        model: &model,
        args: &args,
        exits: &exits,
    };
    let samples = match args.task {
        Task::TriviaQa => run.answers(&documents)?,
        _ => run.choices(&documents)?,
    };
    let results = exits.iter().zip(samples).map(|(exit, samples)| Results {
        task: args.task,
        model: format!("{},exit={exit}", args.model.display()),
        documents: &documents,
        samples,
        rows,
        settings: run.settings(exit),
    });
    let results: Vec<Results> = results.collect();
    print(&exits, &results);
    match &args.out {
        Some(out) => write(out, &exits, &results),
        None => Ok(()),
    }
}

struct Run<'a> {
    model: &'a OpenModel,
    args: &'a Args,
    exits: &'a Exits,
}

impl Run<'_> {
    /// The choices of every question, scored at every exit in one pass: `[exit][question]`.
    fn choices(&self, documents: &[Document]) -> Result<Vec<Vec<Sample>>> {
        let mut examples = Vec::new();
        for document in documents {
            let Asked::Choices { choices, .. } = &document.asked else {
                continue;
            };
            for choice in choices {
                examples.push(self.continuation(&document.context, choice)?);
            }
        }
        let batches = examples.chunks(self.args.batch);
        let mut progress = Progress::new("scoring", batches.len() as u64, 0);
        let mut scores = vec![Vec::new(); self.exits.len()];
        for rows in batches {
            let batch = Batch::from_examples(&rows.iter().collect::<Vec<_>>())?;
            let found = row_scores(&self.model.model, self.exits, (&[batch], &[]), || {
                progress.step("")
            })?;
            for (scores, found) in scores.iter_mut().zip(found) {
                scores.extend(found);
            }
        }
        progress.finish();
        let of_exit = |scores: Vec<soft_core::model::ScoreSum>| {
            let mut scores = scores.into_iter();
            let asked = documents
                .iter()
                .filter_map(|document| match &document.asked {
                    Asked::Choices { choices, right } => Some((choices, *right)),
                    Asked::Answer(_) => None,
                });
            let samples = asked.map(|(choices, right)| {
                let sums: Vec<_> = scores.by_ref().take(choices.len()).collect();
                let nats = sums.iter().map(|sum| -sum.nats).collect();
                let greedy = sums.iter().map(|sum| sum.correct == sum.targets).collect();
                Sample::Choices(choice_scores(choices, right, nats, greedy))
            });
            samples.collect()
        };
        Ok(scores.into_iter().map(of_exit).collect())
    }

    /// A choice after its context, encoded together, with the tokens of the choice as targets.
    fn continuation(&self, context: &str, choice: &str) -> Result<Example> {
        let tokenizer = &self.model.tokenizer;
        let kept = context.trim_end();
        let given = tokenizer.encode_start(kept)?.len();
        let text = format!("{context}{DELIMITER}{choice}");
        let mut tokens = tokenizer.encode_start(&text)?;
        ensure!(
            given > 0 && tokens.len() > given,
            "no token to score in {choice:?} after {kept:?}"
        );
        let surplus = tokens
            .len()
            .saturating_sub(self.model.model.config().max_positions);
        tokens.drain(..surplus);
        let first = given.saturating_sub(surplus).max(1);
        let supervised = (0..tokens.len()).map(|index| index >= first).collect();
        Ok(Example::new(tokens, supervised)?)
    }

    /// Greedy answers of every exit: `[exit][question]`.
    fn answers(&self, documents: &[Document]) -> Result<Vec<Vec<Sample>>> {
        let total = documents.len() * self.exits.len();
        let mut progress = Progress::new("answering", total as u64, 0);
        let mut samples = Vec::new();
        for exit in self.exits.iter() {
            let mut of_exit = Vec::new();
            for documents in documents.chunks(self.args.batch) {
                let texts = self.generate(exit, documents)?;
                for (document, text) in documents.iter().zip(texts) {
                    let right = match &document.asked {
                        Asked::Answer(accepted) => matches_any(&text, accepted),
                        Asked::Choices { .. } => false,
                    };
                    of_exit.push(Sample::Answer { text, right });
                    progress.step(&format!("exit {exit}"));
                }
            }
            samples.push(of_exit);
        }
        progress.finish();
        Ok(samples)
    }

    /// The text after each question up to the first stop.
    fn generate(&self, exit: Exit, documents: &[Document]) -> Result<Vec<String>> {
        let OpenModel {
            model, tokenizer, ..
        } = self.model;
        let most = model.config().max_positions.saturating_sub(MAX_NEW_TOKENS);
        ensure!(
            most > 0,
            "the model's context of {} tokens has no room for {MAX_NEW_TOKENS} new ones",
            model.config().max_positions
        );
        let prompts = documents.iter().map(|document| {
            let tokens = tokenizer.encode_start(&document.context)?;
            let surplus = tokens.len().saturating_sub(most);
            Ok(Prompt::from(tokens[surplus..].to_vec()))
        });
        let prompts = prompts.collect::<Result<Vec<_>>>()?;
        let settings = DecodeSettings::greedy(Mode::Static(exit), MAX_NEW_TOKENS);
        let settings = settings.stop_at(tokenizer.stop_tokens());
        let mut decoder = Decoder::new(model, &prompts, settings)?;
        let answers = prompts.iter().map(|prompt| Text::after(tokenizer, prompt));
        let mut answers = answers.collect::<Result<Vec<_>>>()?;
        while let Some(step) = decoder.next() {
            let step = step?;
            if answers[step.row].push(step.token)? {
                decoder.stop(step.row);
            }
        }
        answers.into_iter().map(Text::finish).collect()
    }

    fn settings(&self, exit: Exit) -> Map<String, Value> {
        let settings = json!({
            "model": "soft",
            "model_args": format!("pretrained={},exit={exit}", self.args.model.display()),
            "batch_size": self.args.batch,
            "device": self.args.place.name(),
            "limit": self.args.limit,
            "data": self.args.data,
        });
        settings.as_object().cloned().unwrap_or_default()
    }
}

/// An answer up to the first stop.
struct Text<'t> {
    stream: TextStream<'t>,
    stops: StopStrings,
    text: String,
    stopped: bool,
}

impl<'t> Text<'t> {
    fn after(tokenizer: &'t Tokenizer, prompt: &Prompt) -> Result<Self> {
        Ok(Self {
            stream: TextStream::after(tokenizer, &prompt.tokens)?,
            stops: StopStrings::new(STOPS.map(str::to_owned).to_vec())?,
            text: String::new(),
            stopped: false,
        })
    }

    /// Adds a token; returns whether the answer is at its end.
    fn push(&mut self, token: u32) -> Result<bool> {
        let passed = self.stops.push(&self.stream.push(token)?);
        self.text.push_str(&passed.text);
        self.stopped |= passed.stopped;
        Ok(self.stopped)
    }

    fn finish(mut self) -> Result<String> {
        if !self.stopped {
            let passed = self.stops.push(&self.stream.finish()?);
            self.text.push_str(&passed.text);
            if !passed.stopped {
                self.text.push_str(&self.stops.finish());
            }
        }
        Ok(self.text)
    }
}

fn print(exits: &Exits, results: &[Results]) {
    let Some(first) = results.first() else {
        return;
    };
    let mut headings = vec!["exit"];
    for (metric, ..) in first.metrics() {
        headings.extend([metric, "stderr"]);
    }
    let line = |(exit, results): (Exit, &Results)| {
        let mut cells = vec![exit.to_string()];
        for (_, mean, error) in results.metrics() {
            let error = error.map_or("–".to_owned(), percent);
            cells.extend([percent(mean), error]);
        }
        cells
    };
    outln!("{}", table(&headings, exits.iter().zip(results).map(line)));
    let (task, count) = (first.task, first.samples.len());
    outln!(
        "{}, {count} of {} rows, 0-shot; in %",
        task.name(),
        first.rows
    );
}

/// Writes `exit_{n}/results_{time}.json` and `exit_{n}/samples_{task}_{time}.jsonl`.
fn write(out: &Path, exits: &Exits, results: &[Results]) -> Result<()> {
    let time = chrono::Utc::now().format("%Y-%m-%dT%H-%M-%S%.6f");
    for (exit, results) in exits.iter().zip(results) {
        let folder = out.join(format!("exit_{exit}"));
        let written = fs::create_dir_all(&folder).and_then(|()| {
            let json = serde_json::to_string_pretty(&results.to_json())?;
            fs::write(folder.join(format!("results_{time}.json")), json)?;
            let lines = results.sample_lines().map(|line| format!("{line}\n"));
            let name = format!("samples_{}_{time}.jsonl", results.task.name());
            fs::write(folder.join(name), lines.collect::<String>())
        });
        written.with_context(|| format!("cannot write into {}", folder.display()))?;
    }
    outln!("lm-eval's files: {}", out.display());
    Ok(())
}
