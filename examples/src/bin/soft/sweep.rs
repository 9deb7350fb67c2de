//! `soft sweep`: measures draft depths and lengths, exit criteria and thresholds side by side on a
//! model, prompts and this machine. Prints the frontier of speed and agreement with the full model,
//! and a recommendation.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use soft_core::Exits;
use soft_core::policy::{Criterion, ExitHead};
use soft_eval::numbers::{digits, percent, ratio};
use soft_eval::results::{Finding, SpeedTable};
use soft_eval::{Interval, frontier};
use soft_examples::decoding::{DecodingArgs, exits_of};
use soft_examples::eval_model::{EvalModel, EvalModelArgs};
use soft_examples::evaluation::Recorder;
use soft_examples::outln;
use soft_examples::prompts::PromptArgs;
use soft_examples::speed::SpeedRun;
use soft_examples::table::table as text_table;

use crate::output::OutputArgs;

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    model: EvalModelArgs,
    #[command(flatten)]
    prompts: PromptArgs,
    /// Exits to use, the last one the full depth [default: those the model was trained at]
    #[arg(long)]
    exits: Option<Exits>,
    /// Depths to draft at [default: the two shallowest exits]; "" for none
    #[arg(long)]
    drafts: Option<String>,
    /// Draft lengths: numbers, adaptive, confident=0.3
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "2,4,adaptive,confident=0.3"
    )]
    lengths: Vec<String>,
    /// Criteria of dynamic exits; "" for none
    #[arg(long, default_value = "confidence")]
    criteria: String,
    /// Thresholds of each criterion, the same at all exits; for patience, numbers of exits
    /// [default: 0.7,0.9,0.97; entropy 1,0.3,0.1; saturation 0.9,0.95,0.98; patience 2,3]
    #[arg(long, value_delimiter = ',')]
    thresholds: Vec<f64>,
    /// Further modes, as for `soft generate`; may be given several times
    #[arg(long)]
    mode: Vec<String>,
    /// Least agreement of the recommended mode with the full model, with 95 % confidence
    #[arg(long, default_value_t = 0.95)]
    least_agreement: f64,
    /// Maximum number of tokens of an answer
    #[arg(long, default_value_t = 64)]
    max_new_tokens: usize,
    #[command(flatten)]
    output: OutputArgs,
}

pub fn run(args: Args) -> Result<()> {
    args.output.check()?;
    ensure!(
        (0.0..=1.0).contains(&args.least_agreement),
        "--least-agreement is {}: expected 0 to 1",
        args.least_agreement
    );
    ensure!(
        args.max_new_tokens > 0,
        "--max-new-tokens is 0: expected at least 1"
    );
    let subject = args.model.open()?;
    let modes = args.modes(&subject)?;
    let mut recorder = Recorder::begin();
    recorder.model(&subject);
    let file = args.prompts.prompts.as_deref();
    if let Some(path) = file {
        recorder.input(path)?;
    }
    let device = args.model.place.name();
    let mut journal = args.output.open_journal("sweep", &device)?;
    let prompts = args.prompts.read(&subject.reader())?;
    let run = SpeedRun {
        subject: &subject,
        modes: &modes,
        data: file
            .and_then(Path::file_stem)
            .map_or("one prompt".into(), |stem| {
                stem.to_string_lossy().into_owned()
            }),
        prompts: &prompts,
        least_agreement: args.least_agreement,
    };
    let table = run.run(&mut journal)?;
    print_rows(&table);
    let findings = vec![Finding::Speed(table)];
    args.output.save(&recorder.finish(findings))
}

type Modes = Vec<(String, DecodingArgs)>;

impl Args {
    /// Plain decoding and the modes to compare with it. All are checked before anything is
    /// measured.
    fn modes(&self, subject: &EvalModel) -> Result<Modes> {
        let exits = exits_of(&subject.trained, self.exits.as_ref())?;
        let of_mode = |mode: &str| DecodingArgs::of_mode(mode, self.max_new_tokens);
        let mut modes: Modes = vec![("full".to_owned(), of_mode("full"))];
        for depth in self.draft_depths(&exits)? {
            for length in &self.lengths {
                let mut decoding = of_mode(&format!("speculative={depth}"));
                decoding.draft_length = Some(length.clone());
                modes.push((format!("draft {depth} × {length}"), decoding));
            }
        }
        for name in self.criteria.split(',').filter(|name| !name.is_empty()) {
            for threshold in self.thresholds_of(name.parse()?) {
                modes.push((
                    format!("{name}={threshold}"),
                    of_mode(&format!("dynamic:{name}={threshold}")),
                ));
            }
        }
        let calibrated = subject.trained.calibrated.iter();
        for calibrated in calibrated.filter(|calibrated| calibrated.exits == exits) {
            let promise = percent(calibrated.disagreement);
            let head = match calibrated.head {
                ExitHead::Full => "",
                ExitHead::Draft => ", draft head",
            };
            let name = format!(
                "{}{head}, calibrated to {promise} %",
                calibrated.rule.criterion()
            );
            modes.push((name, of_mode(&calibrated.mode())));
        }
        modes.extend(self.mode.iter().map(|mode| (mode.clone(), of_mode(mode))));
        for (name, decoding) in &mut modes {
            *decoding = decoding.clone().with_exits(Some(&exits));
            let settings = decoding.settings(&subject.trained, &subject.tokenizer);
            settings.with_context(|| format!("mode {name:?}"))?;
        }
        Ok(modes)
    }

    fn draft_depths(&self, exits: &Exits) -> Result<Vec<usize>> {
        match self.drafts.as_deref() {
            Some("") => Ok(Vec::new()),
            Some(depths) => Ok(depths.parse::<Exits>()?.depths()),
            None => {
                let early = exits.depths();
                Ok(early[..early.len() - 1].iter().take(2).copied().collect())
            }
        }
    }

    fn thresholds_of(&self, criterion: Criterion) -> Vec<f64> {
        if !self.thresholds.is_empty() {
            return self.thresholds.clone();
        }
        match criterion {
            Criterion::Confidence | Criterion::Margin | Criterion::Probe => vec![0.7, 0.9, 0.97],
            Criterion::Entropy => vec![1.0, 0.3, 0.1],
            Criterion::Saturation => vec![0.9, 0.95, 0.98],
            Criterion::Patience => vec![2.0, 3.0],
        }
    }
}

fn print_rows(table: &SpeedTable) {
    let SpeedTable {
        rows,
        settings,
        recommended,
        least_agreement,
        prompts,
        ..
    } = table;
    let best = frontier(settings);
    let lines = rows.iter().zip(settings).enumerate();
    let lines = lines.map(|(index, (row, setting))| {
        let mark = match (*recommended == Some(index), best.contains(&index)) {
            (true, _) => "recommended",
            (_, true) => "frontier",
            _ => "",
        };
        vec![
            row.mode.clone(),
            format!("{:.1}", row.ms_per_token),
            row.speedup.as_ref().map_or("–".to_owned(), ratio),
            format!(
                "{} (from {})",
                percent(setting.agreement),
                percent(setting.least)
            ),
            format!("{:.1}", row.mean_depth),
            row.acceptance.map_or("–".to_owned(), percent),
            digits(row.giga_flops),
            mark.to_owned(),
        ]
    });
    let headings = [
        "mode",
        "ms/token",
        "speed [95 %]",
        "agreement %",
        "mean depth",
        "accepted %",
        "GFLOP/token",
        "",
    ];
    outln!("{}", text_table(&headings, lines));
    outln!(
        "speed: times plain decoding, median over prompts; agreement: share of the tokens after the \
         first, ends included, that the full model generates on the same text"
    );
    match recommended {
        Some(index) => outln!(
            "recommended for at least {} % agreement, the lower end of its 95 % interval: {}",
            percent(*least_agreement),
            settings[*index].name
        ),
        None => outln!("no mode reaches {} % agreement", percent(*least_agreement)),
    }
    if recommended.is_some_and(|index| settings[index].least < 1.0) {
        return;
    }
    let tokens = rows.first().map_or(0, |plain| plain.tokens) as f64 / (*prompts).max(1) as f64;
    match Interval::fewest_texts(*least_agreement, tokens) {
        Some(needed) if needed as u64 > *prompts => outln!(
            "{prompts} prompts are few for a mode whose tokens may differ: about {needed} are needed, \
             even if none differs"
        ),
        _ => {}
    }
}
