//! `soft calibrate`: exit thresholds that bound, with 95 % confidence by default, the share of
//! tokens that differ from those of the full model. They are stored in `soft.json`, where
//! `soft generate --mode dynamic` reads them.
//!
//! Exit probes are fitted on a part of the texts and stored in `exit_probes.json`. Every criterion
//! is calibrated on another part (Learn then Test, see soft-eval's `calibration`) and evaluated on
//! a third; the recommended rule also on the texts that dynamic decoding writes with it.

use anyhow::{Result, ensure};
use soft_core::Exits;
use soft_core::policy::{CalibratedExits, Criterion, ExitHead, ExitProbes};
use soft_eval::numbers::percent;
use soft_eval::results::{CalibrationRow, CalibrationTable, Finding};
use soft_eval::{
    AnsweredPrompt, CalibrationSettings, HeadCosts, Interval, Journal, PolicyOutcome, fit_probes,
    shuffle,
};
use soft_examples::calibration::{Plan, store};
use soft_examples::decoding::exits_of;
use soft_examples::eval_model::{EvalModel, EvalModelArgs};
use soft_examples::evaluation::Recorder;
use soft_examples::outln;
use soft_examples::progress::Progress;
use soft_examples::table::table;

use crate::output::OutputArgs;
use crate::texts::TextArgs;

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    source: EvalModelArgs,
    /// Exits to use, the last one the full depth [default: those the model was trained at]
    #[arg(long)]
    exits: Option<Exits>,
    #[command(flatten)]
    texts: TextArgs,
    /// Highest share of tokens that may differ from the full model's
    #[arg(long, default_value_t = 0.05)]
    disagreement: f64,
    /// Confidence of that limit
    #[arg(long, default_value_t = 0.95)]
    confidence: f64,
    /// Criteria to calibrate: confidence, margin, entropy, probe, saturation, patience [default:
    /// all]
    #[arg(long, value_delimiter = ',')]
    criterion: Vec<Criterion>,
    /// Share of the texts that probes are fitted on, which take no part in the calibration
    #[arg(long, default_value_t = 0.25)]
    probe_texts: f64,
    /// Calibrate the full heads even if the model has a list of draft tokens
    #[arg(long)]
    full_draft_head: bool,
    /// Share of the other texts that is held out to evaluate the thresholds
    #[arg(long, default_value_t = 0.1)]
    check: f64,
    /// Also calibrate on this many random splits of the texts, and count in how many the limit
    /// holds on the held-out texts
    #[arg(long, default_value_t = 0)]
    splits: u64,
    /// Seed of the splits
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Show the thresholds without storing them in soft.json
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub fn run(args: Args) -> Result<()> {
    args.output.check()?;
    args.texts.check()?;
    for (flag, share) in [("--check", args.check), ("--probe-texts", args.probe_texts)] {
        ensure!(
            share > 0.0 && share < 1.0,
            "{flag} is {share}: expected a share above 0 and below 1"
        );
    }
    let folder = &args.source.model.folder;
    ensure!(
        args.dry_run || folder.is_dir(),
        "no folder {}: thresholds are stored in the model's folder; for a model on a hub, \
         --dry-run shows them",
        folder.display()
    );
    args.plan(HeadCosts::default(), ExitHead::Full)
        .settings
        .validate()?;
    let mut subject = args.source.open()?;
    if args.full_draft_head {
        subject.trained.draft_tokens = None;
    }
    let exits = exits_of(&subject.trained, args.exits.as_ref())?;
    ensure!(
        exits.len() > 1,
        "exits {exits}: expected one before the full depth"
    );
    let mut recorder = Recorder::begin();
    recorder.model(&subject);
    recorder.input(&args.texts.prompts)?;
    recorder.seed("splits", args.seed);
    let device = args.source.place.name();
    let mut journal = args.output.open_journal("calibrate", &device)?;
    let head = subject.exit_head();
    let plan = args.plan(subject.head_costs(), head);
    let mut texts = args.texts.read(&subject, &mut journal)?;
    subject.trained.probes = None;
    if plan.criteria.contains(&Criterion::Probe) {
        subject.trained.probes = Some(args.probes(&subject, &exits, &mut texts)?);
    }
    let mut progress = Progress::new("reading", texts.len() as u64, 0);
    let traces = subject.traces((&exits, head), &texts, &mut journal, || progress.step(""))?;
    progress.finish();
    let total = plan.criteria.len() as u64 * (1 + plan.splits);
    let mut progress = Progress::new("calibrating", total, 0);
    let mut rows = plan.rows(&exits, &traces, |criterion| progress.step(criterion.name()))?;
    progress.finish();
    for row in &mut rows {
        row.calibrated.data = args.texts.name();
    }
    if let Some(recommended) = rows.first_mut() {
        let held_out = plan.held_out(texts.len()).into_iter();
        let prompts: Vec<_> = held_out.map(|text| texts[text].prompt.clone()).collect();
        let calibrated = &recommended.calibrated;
        recommended.own_text = args.on_own_text(&subject, calibrated, &prompts, &mut journal)?;
    }
    let tokens: usize = traces.iter().map(Vec::len).sum();
    print_rows(&args, &rows);
    let heads = match head {
        ExitHead::Full => "full heads",
        ExitHead::Draft => "heads of the draft tokens",
    };
    outln!(
        "{} texts, {tokens} tokens; exits {exits}, {heads}",
        traces.len()
    );
    let table = CalibrationTable {
        model: subject.name.clone(),
        data: format!("{}, {} texts", args.texts.name(), traces.len()),
        rows,
    };
    let rows = table.rows.clone();
    args.output
        .save(&recorder.finish(vec![Finding::Calibration(table)]))?;
    if !args.dry_run {
        store(folder, &exits, (&rows, subject.trained.probes.as_ref()))?;
        outln!("thresholds: {}", folder.join("soft.json").display());
    }
    Ok(())
}

impl Args {
    /// The share of disagreeing tokens on the texts that dynamic decoding writes. The guarantee is
    /// for texts that do not depend on the rule; after an early token that differs, these do.
    fn on_own_text(
        &self,
        subject: &EvalModel,
        calibrated: &CalibratedExits,
        prompts: &[Vec<u32>],
        journal: &mut Journal,
    ) -> Result<Option<Interval>> {
        let CalibratedExits {
            exits, head, rule, ..
        } = calibrated;
        let mode = (&*calibrated.mode(), exits);
        let texts = self.texts.decoded(subject, prompts, mode, journal)?;
        let traces = subject.traces((exits, *head), &texts, journal, || ())?;
        let policy = rule.policy();
        let counts = traces.iter().map(|trace| {
            let outcome = PolicyOutcome::of(&*policy, exits, [trace]);
            (outcome.disagreeing as f64, outcome.tokens as f64)
        });
        Ok(Interval::of_share(&counts.collect::<Vec<_>>()))
    }

    /// Takes texts away and fits probes on them.
    fn probes(
        &self,
        subject: &EvalModel,
        exits: &Exits,
        texts: &mut Vec<AnsweredPrompt>,
    ) -> Result<ExitProbes> {
        shuffle(texts, self.seed);
        let fitted = (self.probe_texts * texts.len() as f64).round() as usize;
        let others = texts.split_off(fitted.min(texts.len() - 1));
        let fitted = std::mem::replace(texts, others);
        let mut progress = Progress::new("reading for probes", fitted.len() as u64, 0);
        let mut traced = Vec::with_capacity(fitted.len());
        for text in &fitted {
            traced.push(subject.trace_states(exits, text)?);
            progress.step("");
        }
        progress.finish();
        Ok(fit_probes(exits, &traced)?)
    }

    fn plan(&self, heads: HeadCosts, head: ExitHead) -> Plan {
        let criteria = if self.criterion.is_empty() {
            Criterion::ALL.to_vec()
        } else {
            self.criterion.clone()
        };
        Plan {
            criteria,
            settings: CalibrationSettings {
                confidence: self.confidence,
                seed: self.seed,
                heads,
                head,
                // The end of an answer counts as a token.
                ..CalibrationSettings::at_most(self.disagreement, self.texts.max_new_tokens + 1)
            },
            check: self.check,
            splits: self.splits,
        }
    }
}

fn print_rows(args: &Args, rows: &[CalibrationRow]) {
    outln!(
        "{}",
        table(
            &CalibrationRow::HEADINGS,
            rows.iter().map(CalibrationRow::cells)
        )
    );
    outln!(
        "limit: at most {} % of tokens differ from the full model's, with {} % confidence; the first \
         rule is recommended, by what the texts before the test predict",
        percent(args.disagreement),
        percent(args.confidence)
    );
    if rows.iter().any(|row| !row.provable) {
        outln!(
            "too few texts: they could not show that this limit holds even without any disagreement. \
             Give more or longer ones, a smaller --max-new-tokens, or a larger --disagreement"
        );
    }
}
