//! How good is every exit of a model folder? Loss, perplexity, accuracy; for TriviaQA also exact
//! match and F1 of greedy answers (at most 50 tokens, as in Sorted LLaMA, section 4.3).

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde::Serialize;
use soft_burn::{Llama, LlamaConfig, SoftInfo, device};
use soft_core::{DecodeSettings, Decoder, Exit, Exits, Mode, Prompt};
use soft_data::{
    Format, Record, Tokenizer, TriviaQuestion, encode, encode_prompt, ordered_batches,
};
use soft_eval::{AnswerScores, ExitScores, exit_scores};
use soft_examples::progress::Progress;
use soft_examples::table::{figure, table};

#[derive(Parser, Debug)]
#[command(about = "Loss, perplexity, accuracy and answers at every exit of a model")]
struct Args {
    /// Model folder
    #[arg(long)]
    model: PathBuf,
    /// File of rows to score
    #[arg(long)]
    data: PathBuf,
    /// Layout of the rows: alpaca, triviaqa or jsonl
    #[arg(long)]
    format: Format,
    /// Exits to score [default: those of the folder's soft.json, else every depth]
    #[arg(long)]
    exits: Option<Exits>,
    /// Exits that answer questions (triviaqa) [default: all scored]
    #[arg(long)]
    answer_exits: Option<Exits>,
    /// Losses and accuracy only: no questions are answered
    #[arg(long, conflicts_with = "answer_exits")]
    no_answers: bool,
    /// Use the first N rows only
    #[arg(long)]
    limit: Option<usize>,
    /// Rows per batch
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// Longest row in tokens
    #[arg(long, default_value_t = 512)]
    max_len: usize,
    /// Most tokens of an answer
    #[arg(long, default_value_t = 50)]
    max_new_tokens: usize,
    /// Device: cpu, cuda, cuda:1, wgpu, ndarray, as compiled in
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Also write the figures, and the answers, to this JSON file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Questions whose answers are shown for every exit
    #[arg(long, default_value_t = 3)]
    show: usize,
}

/// One row of the table.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    scores: ExitScores,
    answers: Option<AnswerScores>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    predictions: Vec<String>,
}

#[derive(Serialize)]
struct Report {
    model: PathBuf,
    data: PathBuf,
    limit: Option<usize>,
    exits: Vec<Row>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(path) = &args.json {
        ensure!(!path.exists(), "{} is there already", path.display());
    }
    let device = device(&args.device)?;
    let config = LlamaConfig::load(&args.model)?;
    let exits = match (&args.exits, SoftInfo::load(&args.model)?) {
        (Some(exits), _) => exits.clone(),
        (None, Some(info)) => info.exits,
        (None, None) => Exits::every(1, 1..=config.n_layers)?,
    };
    // Any depth can be looked at, the full one need not be among them.
    exits.check_within(config.n_layers)?;
    if let Some(answering) = &args.answer_exits {
        let unknown = answering.iter().find(|&exit| !exits.contains(exit));
        ensure!(
            unknown.is_none(),
            "--answer-exits {answering} are not all among the exits scored, {exits}"
        );
    }
    let mut records = args.format.read(&args.data)?;
    records.truncate(args.limit.unwrap_or(usize::MAX));
    let tokenizer = Tokenizer::from_folder(&args.model, config.vocab)?;
    let (examples, report) = encode(&records, &tokenizer, args.max_len.min(config.max_positions))?;
    eprintln!("{}: {report}", args.data.display());
    let batches = ordered_batches(&examples, tokenizer.pad(), args.batch)?;
    let model = Llama::from_pretrained(&args.model, &device)?;

    if !args.no_answers && args.format == Format::TriviaQa {
        let with_blocks = model.exits_with_blocks();
        let answering = args.answer_exits.as_ref().unwrap_or(&exits);
        let own = answering.iter().find(|exit| with_blocks.contains(exit));
        ensure!(
            own.is_none(),
            "exit {} has a block of its own (Balcony) and answers as a model of its own only: `extract` it, or add --no-answers or \
             --answer-exits",
            own.map_or(0, Exit::depth)
        );
    }
    let mut progress = Progress::new("scoring", batches.len() as u64, 0);
    let scores = exit_scores(&model, &exits, &batches, || progress.step(""))?;
    progress.finish();
    let mut rows: Vec<Row> = scores
        .into_iter()
        .map(|scores| Row {
            scores,
            answers: None,
            predictions: vec![],
        })
        .collect();
    if args.format == Format::TriviaQa && !args.no_answers {
        answer_exits(&args, &records, &model, &tokenizer, &mut rows)?;
    }
    print_table(&rows);
    show_answers(&args, &records, &rows);
    if let Some(path) = &args.json {
        let report = Report {
            model: args.model.clone(),
            data: args.data.clone(),
            limit: args.limit,
            exits: rows,
        };
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("figures: {}", path.display());
    }
    Ok(())
}

/// Greedy answers of every row whose exit was asked for, and their scores.
fn answer_exits(
    args: &Args,
    records: &[Record],
    model: &Llama,
    tokenizer: &Tokenizer,
    rows: &mut [Row],
) -> Result<()> {
    let asked = |exit: Exit| {
        args.answer_exits
            .as_ref()
            .is_none_or(|exits| exits.contains(exit))
    };
    let batches = records.len().div_ceil(args.batch);
    let exits = rows.iter().filter(|row| asked(row.scores.exit)).count();
    let mut progress = Progress::new("answering", (exits * batches) as u64, 0);
    for row in rows.iter_mut().filter(|row| asked(row.scores.exit)) {
        for records in records.chunks(args.batch) {
            let prompts = records
                .iter()
                .map(|record| encode_prompt(record, tokenizer).map(Prompt::from));
            let prompts = prompts.collect::<Result<Vec<_>, _>>()?;
            let settings =
                DecodeSettings::greedy(Mode::Static(row.scores.exit), args.max_new_tokens)
                    .stop_at(tokenizer.stop_tokens());
            for answer in Decoder::new(model, &prompts, settings)?.answers()? {
                row.predictions
                    .push(first_line(&tokenizer.decode(&answer)?));
            }
            progress.step(&format!("exit {}", row.scores.exit));
        }
        let questions = records.iter().filter_map(|record| record.trivia.as_ref());
        let accepted =
            |question: &TriviaQuestion| question.accepted().map(str::to_owned).collect::<Vec<_>>();
        let answered = row
            .predictions
            .iter()
            .map(String::as_str)
            .zip(questions.map(accepted));
        row.answers = Some(AnswerScores::of(answered));
    }
    progress.finish();
    Ok(())
}

/// An untuned model goes on with questions of its own; only its first line is an answer.
fn first_line(answer: &str) -> String {
    answer
        .trim()
        .lines()
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn print_table(rows: &[Row]) {
    let with_answers = rows.iter().any(|row| row.answers.is_some());
    let mut headings = vec!["exit", "loss", "perplexity", "accuracy"];
    if with_answers {
        headings.extend(["EM", "EM normalised", "F1"]);
    }
    let line = |row: &Row| {
        let scores = &row.scores;
        let mut cells = vec![
            scores.exit.to_string(),
            figure(scores.loss),
            figure(scores.perplexity),
            percent(scores.accuracy),
        ];
        if with_answers {
            let answers = row.answers.as_ref();
            let cell = |pick: fn(&AnswerScores) -> f64| {
                answers.map_or("-".into(), |scores| percent(pick(scores)))
            };
            cells.extend([
                cell(|a| a.exact_match),
                cell(|a| a.exact_match_normalised),
                cell(|a| a.f1),
            ]);
        }
        cells
    };
    println!("{}", table(&headings, rows.iter().map(line)));
    if let Some(row) = rows.first() {
        let questions = row.answers.as_ref().map_or(String::new(), |answers| {
            format!(", {} questions", answers.questions)
        });
        println!(
            "{} supervised tokens{questions}; loss in nats per token; accuracy, EM and F1 in %",
            row.scores.tokens
        );
    }
}

fn show_answers(args: &Args, records: &[Record], rows: &[Row]) {
    for (index, record) in records.iter().take(args.show).enumerate() {
        let Some(question) = &record.trivia else {
            return;
        };
        println!("\n{}  [{}]", question.question, question.answer);
        for row in rows {
            if let Some(answer) = row.predictions.get(index) {
                println!("  {:>3}  {answer}", row.scores.exit);
            }
        }
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}
