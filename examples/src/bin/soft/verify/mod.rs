//! `soft verify`: checks that fast decoding is exact for a model and prompts.
//!
//! Every mode that must generate the same text as the full model is compared with plain decoding,
//! and every token of an early exit with the sub-model of that exit on the finished text. For the
//! first difference, the output has the difference of the logits of the two tokens. A gap near 0 is
//! rounding, which occurs on backends without batch-invariant kernels.

mod comparison;
mod modes;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use soft_core::decode::Step;
use soft_core::{DecodeSettings, Decoder, Exits, Mode, Prompt};
use soft_data::Tokenizer;
use soft_examples::decoding::exits_of;
use soft_examples::model::{ModelArgs, OpenModel};
use soft_examples::outln;
use soft_examples::progress::Progress;
use soft_examples::prompts::PromptArgs;
use soft_examples::table::table;

use comparison::Comparison;

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    source: ModelArgs,
    #[command(flatten)]
    prompts: PromptArgs,
    /// Exits to check, the last one the full depth [default: those the model was trained at]
    #[arg(long)]
    exits: Option<Exits>,
    /// Maximum number of tokens of an answer
    #[arg(long, default_value_t = 64)]
    max_new_tokens: usize,
    /// Prompts decoded at a time where batches are checked
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Threshold on the highest probability for dynamic exits
    #[arg(long, default_value_t = 0.5)]
    threshold: f64,
}

pub fn run(args: Args) -> Result<ExitCode> {
    ensure!(args.batch > 0, "--batch is 0: expected at least 1");
    ensure!(
        args.max_new_tokens > 0,
        "--max-new-tokens is 0: expected at least 1"
    );
    let model = args.source.open()?;
    let exits = exits_of(&model.trained, args.exits.as_ref())?;
    let prompts = args.prompts.read(&model.reader())?;
    let verifier = Verifier {
        model: &model,
        exits,
        args: &args,
    };
    let comparisons = verifier.compare(&prompts)?;
    print_comparisons(&comparisons, &model.tokenizer);
    let different: usize = comparisons.iter().map(|it| it.different).sum();
    let compared: usize = comparisons.iter().map(|it| it.compared).sum();
    outln!("{compared} tokens compared, {different} different");
    Ok(if different == 0 && compared > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

struct Verifier<'a> {
    model: &'a OpenModel,
    exits: Exits,
    args: &'a Args,
}

impl Verifier<'_> {
    /// Compares batches with single prompts, every exact mode with plain decoding, and early exits
    /// with their sub-models.
    fn compare(&self, prompts: &[Prompt]) -> Result<Vec<Comparison>> {
        let modes = self.exact_modes()?;
        let rounds = prompts.len().div_ceil(self.args.batch);
        let mut progress = Progress::new("verifying", (rounds * (modes.len() + 2)) as u64, 0);
        let named = modes.iter().map(|(name, _)| Comparison::named(name));
        let mut exact: Vec<Comparison> = named.collect();
        let batched = format!("batches of {} = each prompt alone", self.args.batch);
        let mut batched = Comparison::named(&batched);
        let early = self.args.threshold;
        let mut early =
            Comparison::named(&format!("exits at probability {early} = their sub-models"));
        for (round, prompts) in prompts.chunks(self.args.batch).enumerate() {
            let first = round * self.args.batch;
            let full = || Mode::Static(self.exits.last());
            let plain = prompts
                .iter()
                .map(|prompt| Ok(self.decode(std::slice::from_ref(prompt), full())?.remove(0)));
            let plain: Vec<Vec<Step>> = plain.collect::<Result<_>>()?;
            progress.step("plain");
            let found = self.decode(prompts, full())?;
            self.compare_with(&mut batched, first, prompts, &plain, &found)?;
            for ((name, mode), comparison) in modes.iter().zip(&mut exact) {
                let found = self.decode(prompts, mode()?)?;
                self.compare_with(comparison, first, prompts, &plain, &found)?;
                progress.step(name);
            }
            let found = self.decode(prompts, self.dynamic(self.args.threshold))?;
            self.compare_early(&mut early, first, prompts, &found)?;
            progress.step("dynamic");
        }
        progress.finish();
        exact.insert(0, batched);
        exact.push(early);
        Ok(exact)
    }

    fn decode(&self, prompts: &[Prompt], mode: Mode) -> Result<Vec<Vec<Step>>> {
        let settings = DecodeSettings {
            draft_tokens: self.model.trained.draft_tokens.clone(),
            ..DecodeSettings::greedy(mode, self.args.max_new_tokens)
        };
        let settings = settings.stop_at(self.model.tokenizer.stop_tokens());
        let mut steps = vec![Vec::new(); prompts.len()];
        for step in Decoder::new(&self.model.model, prompts, settings)? {
            let step = step?;
            steps[step.row].push(step);
        }
        Ok(steps)
    }
}

fn print_comparisons(comparisons: &[Comparison], tokenizer: &Tokenizer) {
    let headings = [
        "check",
        "answers",
        "tokens compared",
        "early or drafted",
        "different",
    ];
    let rows = comparisons.iter().map(|comparison| {
        vec![
            comparison.name.clone(),
            comparison.answers.to_string(),
            comparison.compared.to_string(),
            comparison.early.to_string(),
            comparison.different.to_string(),
        ]
    });
    outln!("{}", table(&headings, rows));
    for comparison in comparisons {
        let Some(first) = &comparison.first else {
            continue;
        };
        let name = |token: Option<u32>| match token {
            Some(token) => format!(
                "{token} {:?}",
                tokenizer.decode(&[token]).unwrap_or_default()
            ),
            None => "the end".to_owned(),
        };
        let gap = first.gap.map_or(String::new(), |gap| {
            format!("; their logits differ by {gap:.2e} (near 0 is rounding)")
        });
        outln!(
            "{}: first difference at prompt {}, token {} of its answer: expected {}, found {}{gap}",
            comparison.name,
            first.prompt + 1,
            first.position + 1,
            name(first.expected),
            name(first.found),
        );
    }
}
