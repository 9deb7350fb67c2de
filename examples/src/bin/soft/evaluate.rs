//! `soft evaluate`: loss, perplexity and accuracy at every exit of a model; for TriviaQA also exact
//! match and F1 of greedy answers (at most 50 tokens, as in Sorted LLaMA, section 4.3).

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use soft_burn::{LlamaConfig, SoftInfo};
use soft_core::{Exit, Exits};
use soft_data::{Format, Record, encode_prompt, ordered_batches};
use soft_eval::numbers::{number, percent, percent_interval};
use soft_eval::results::{AnswerRow, AnswerTable, ExitRow, ExitTable, Finding};
use soft_eval::{Baseline, BaselineScores, Baselines, Journal};
use soft_examples::decoding::DecodingArgs;
use soft_examples::eval_model::{EvalModel, EvalModelArgs, Questions};
use soft_examples::evaluation::Recorder;
use soft_examples::hub::model_folder;
use soft_examples::progress::Progress;
use soft_examples::table::table;
use soft_examples::tokens::encode_rows;
use soft_examples::{outln, statusln};

use crate::output::OutputArgs;
use crate::rows::RowArgs;
use crate::trivia::{first_line, trivia_scores};

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    source: EvalModelArgs,
    #[command(flatten)]
    rows: RowArgs,
    /// Exits to score [default: those of the folder's soft.json, else every depth]
    #[arg(long)]
    exits: Option<Exits>,
    /// Exits that answer questions (triviaqa) [default: all scored]
    #[arg(long)]
    answer_exits: Option<Exits>,
    /// Further decoding modes that answer questions, as for `soft generate`: dynamic,
    /// speculative=12, ...; may be given several times
    #[arg(long)]
    mode: Vec<String>,
    /// Losses and accuracy only, no answers to questions
    #[arg(long, conflicts_with_all = ["answer_exits", "mode"])]
    no_answers: bool,
    /// Training rows of the same layout, on whose responses a unigram and a bigram are fitted that
    /// never read the prompt
    #[arg(long)]
    baselines: Option<PathBuf>,
    /// Maximum number of tokens of an answer
    #[arg(long, default_value_t = 50)]
    max_new_tokens: usize,
    /// Questions whose answers are shown for every exit
    #[arg(long, default_value_t = 3)]
    show: usize,
    #[command(flatten)]
    output: OutputArgs,
}

pub fn run(args: Args) -> Result<()> {
    args.output.check()?;
    let place = args.source.place.open()?;
    let folder = model_folder(&args.source.model.folder)?;
    let config = LlamaConfig::load(&folder)?;
    let exits = match (&args.exits, SoftInfo::load(&folder)?) {
        (Some(exits), _) => exits.clone(),
        (None, Some(info)) => info.exits,
        (None, None) => Exits::every(1, 1..=config.n_layers)?,
    };
    // The exits need not include the full depth.
    exits.check_within(config.n_layers)?;
    let answering = args.answer_exits.as_ref().unwrap_or(&exits);
    let unknown = answering.iter().find(|&exit| !exits.contains(exit));
    ensure!(
        unknown.is_none(),
        "--answer-exits {answering} are not all among the exits scored, {exits}"
    );
    let records = args.rows.read()?;
    let training = match &args.baselines {
        Some(path) => Some((path, args.rows.format.read(path)?)),
        None => None,
    };
    let subject = EvalModel::load(&args.source.model, place, &args.source.tokens)?;
    let longest = args.rows.max_len.min(config.max_positions);
    let examples = encode_rows(&args.rows.data, &records, &subject.tokenizer, longest)?;
    let batches = ordered_batches(&examples, args.rows.batch)?;

    let answers = args.rows.format == Format::TriviaQa && !args.no_answers;
    ensure!(
        answers || args.mode.is_empty(),
        "--mode is for questions, which only triviaqa rows have"
    );
    if answers {
        for mode in &args.mode {
            let decoding = DecodingArgs::of_mode(mode, args.max_new_tokens);
            let decoding = decoding.with_exits(args.exits.as_ref());
            decoding.settings(&subject.trained, &subject.tokenizer)?;
            if let Some(warning) = decoding.beyond_guarantee(&subject.trained)? {
                statusln!("{warning}");
            }
        }
    }
    let mut baselines = None;
    if let Some((path, records)) = training {
        let examples = encode_rows(path, &records, &subject.tokenizer, longest)?;
        let training = ordered_batches(&examples, args.rows.batch)?;
        baselines = Some(Baselines::fit(&training, config.vocab)?);
    }
    let mut recorder = Recorder::begin();
    recorder.model(&subject);
    recorder.input(&args.rows.data)?;
    if let Some(training) = &args.baselines {
        recorder.input(training)?;
    }
    let device = args.source.place.name();
    let mut journal = args.output.open_journal("evaluate", &device)?;
    let mut progress = Progress::new("scoring", batches.len() as u64, 0);
    let rows = subject.row_scores(&exits, &batches, &mut journal, || progress.step(""))?;
    progress.finish();
    let scored = exits.iter().zip(&rows);
    let ends = subject.tokenizer.stop_tokens();
    let bigram = baselines
        .as_ref()
        .map(|fitted| fitted.row_scores(Baseline::Bigram, (&batches, ends)));
    let scored: Vec<_> = scored
        .map(|(exit, rows)| {
            let row = ExitRow::of(exit, rows);
            match &bigram {
                Some(bigram) => row.beside(rows, bigram),
                None => row,
            }
        })
        .collect();
    let baselines = baselines.map_or_else(Vec::new, |fitted| fitted.scores(&batches, ends));
    let mut answered = Vec::new();
    if answers {
        let modes = answering
            .iter()
            .map(|exit| (format!("exit={exit}"), Some(exit)));
        let modes = modes.chain(args.mode.iter().map(|mode| (mode.clone(), None)));
        answered = answer(&args, &records, &subject, &mut journal, modes.collect())?;
    }
    print_exits(&scored, &baselines);
    print_answers(&args, &records, &answered);
    let data = data_name(&args, records.len());
    let mut findings = vec![Finding::Exits(ExitTable {
        model: subject.name.clone(),
        data: data.clone(),
        rows: scored,
        baselines,
    })];
    if answers {
        findings.push(Finding::Answers(AnswerTable {
            model: subject.name.clone(),
            data,
            questions: records.len() as u64,
            rows: answered.into_iter().map(|answered| answered.row).collect(),
        }));
    }
    args.output.save(&recorder.finish(findings))
}

fn data_name(args: &Args, rows: usize) -> String {
    let file = args.rows.data.file_stem().unwrap_or_default();
    format!("{}, {rows} rows", file.to_string_lossy())
}

struct Answered {
    row: AnswerRow,
    predictions: Vec<String>,
}

fn answer(
    args: &Args,
    records: &[Record],
    subject: &EvalModel,
    journal: &mut Journal,
    modes: Vec<(String, Option<Exit>)>,
) -> Result<Vec<Answered>> {
    let prompts = records
        .iter()
        .map(|record| encode_prompt(record, &subject.tokenizer));
    let questions = Questions {
        exits: args.exits.as_ref(),
        prompts: &prompts.collect::<Result<Vec<_>, _>>()?,
        max_new_tokens: args.max_new_tokens,
        batch: args.rows.batch,
    };
    let total = modes.len() * records.len();
    let mut progress = Progress::new("answering", total as u64, 0);
    let mut answered = Vec::new();
    for (mode, exit) in modes {
        let found = subject.answers(&mode, &questions, journal, || progress.step(&mode))?;
        let texts = found.iter().map(|answer| subject.text(answer));
        let predictions = texts.map(|text| Ok(first_line(&text?)));
        let predictions = predictions.collect::<Result<Vec<_>>>()?;
        let scores = trivia_scores(records, &predictions);
        let row = AnswerRow::of(mode, exit, &scores).context("there is no question to answer")?;
        answered.push(Answered { row, predictions });
    }
    progress.finish();
    Ok(answered)
}

fn print_exits(rows: &[ExitRow], baselines: &[BaselineScores]) {
    let headings = [
        "exit",
        "loss, nats",
        "perplexity",
        "accuracy %",
        "without ends %",
        "skill, nats",
    ];
    let shown = headings.len() - usize::from(baselines.is_empty());
    let line = |row: &ExitRow| {
        let scores = &row.scores;
        let cells = [
            scores.exit.to_string(),
            row.loss_cell(),
            number(scores.perplexity),
            percent(scores.accuracy),
            row.without_ends_cell(),
            row.skill_cell(),
        ];
        cells[..shown].to_vec()
    };
    let of_baseline = |scores: &BaselineScores| {
        let mut cells = scores.cells().to_vec();
        cells.push(String::new());
        cells
    };
    let lines = rows.iter().map(line);
    let lines = lines.chain(baselines.iter().map(of_baseline));
    outln!("{}", table(&headings[..shown], lines));
    if !baselines.is_empty() {
        outln!(
            "unigram and bigram: of the training rows' responses, without the prompt; skill: nats per \
             token below the bigram"
        );
    }
    if let Some(row) = rows.first() {
        outln!(
            "{} supervised tokens; loss per token with its 95 % interval; accuracy also without the \
             stop tokens",
            row.scores.tokens
        );
    }
}

fn print_answers(args: &Args, records: &[Record], answered: &[Answered]) {
    if answered.is_empty() {
        return;
    }
    let line = |answered: &Answered| {
        let row = &answered.row;
        vec![
            row.mode.clone(),
            percent_interval(&row.exact_match),
            percent_interval(&row.exact_match_normalized),
            percent_interval(&row.f1),
        ]
    };
    let headings = ["decoding", "EM", "EM normalized", "F1"];
    outln!("\n{}", table(&headings, answered.iter().map(line)));
    outln!("{} questions; in %, with 95 % intervals", records.len());
    for (index, record) in records.iter().take(args.show).enumerate() {
        let Some(question) = &record.trivia else {
            return;
        };
        outln!("\n{}  [{}]", question.question, question.answer);
        for answered in answered {
            outln!(
                "  {:>8}  {}",
                answered.row.mode,
                answered.predictions[index]
            );
        }
    }
}
