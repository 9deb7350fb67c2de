//! Checks the exactness contract of decoding on a model and prompts of your own.
//!
//! Every way of decoding that promises the full model's text is run beside plain decoding, and
//! every token that exited early is named again by its sub-model in one pass over the finished
//! text. Says how many tokens were compared, how many differ, and at the first difference how far
//! apart the two tokens' logits are: a gap near 0 is rounding, which backends without
//! batch-invariant kernels may show.

mod law;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args as ClapArgs;
use soft_burn::{DecodingDefaults, Llama};
use soft_core::decode::{DraftLength, DynamicExits, Speculation, Step, Tuner};
use soft_core::model::Head;
use soft_core::policy::{Confidence, Saturation};
use soft_core::{
    DecodeModel, DecodeSettings, Decoder, Exit, Exits, Mode, NestedModel, Past, Prompt, Thresholds,
};
use soft_examples::decoding::exits_of;
use soft_examples::device::PlaceArgs;
use soft_examples::hub::model_folder;
use soft_examples::model;
use soft_examples::outln;
use soft_examples::progress::Progress;
use soft_examples::prompts::{PromptArgs, Reader};
use soft_examples::tokens::TokenArgs;

use law::{Difference, Law, print_laws};

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Model folder, or org/name[@revision] of a hub
    #[arg(long)]
    model: PathBuf,
    #[command(flatten)]
    source: PromptArgs,
    /// Exits to check, the last one the full depth [default: those the model was trained at]
    #[arg(long)]
    exits: Option<Exits>,
    /// Most tokens of an answer
    #[arg(long, default_value_t = 64)]
    max_new_tokens: usize,
    /// Prompts decoded at a time where batches are checked
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Threshold on the highest probability for dynamic exits
    #[arg(long, default_value_t = 0.5)]
    threshold: f64,
    #[command(flatten)]
    tokens: TokenArgs,
    #[command(flatten)]
    device: PlaceArgs,
}

pub fn run(args: Args) -> Result<ExitCode> {
    ensure!(args.batch > 0, "--batch is 0: expected at least 1");
    ensure!(
        args.max_new_tokens > 0,
        "--max-new-tokens is 0: expected at least 1"
    );
    let folder = model_folder(&args.model)?;
    let model = model::load(&folder, args.device.open()?)?;
    let config = model.config();
    let tokenizer = args.tokens.open(&folder, config.vocab)?;
    let trained = DecodingDefaults::load(&folder, config)?;
    let exits = exits_of(&trained, args.exits.as_ref())?;
    let prompts = args.source.read(&Reader {
        folder: &folder,
        tokenizer: &tokenizer,
        context: config.max_positions,
    })?;
    let contract = Contract {
        model: &model,
        exits,
        stop_tokens: tokenizer.stop_tokens(),
        draft_tokens: trained.draft_tokens,
        args: &args,
    };
    let laws = contract.check(&prompts)?;
    print_laws(&laws, &tokenizer);
    let different: usize = laws.iter().map(|law| law.different).sum();
    let compared: usize = laws.iter().map(|law| law.compared).sum();
    outln!("{compared} tokens compared, {different} different");
    Ok(if different == 0 && compared > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

struct Contract<'a> {
    model: &'a Llama,
    exits: Exits,
    stop_tokens: &'a [u32],
    draft_tokens: Option<Vec<u32>>,
    args: &'a Args,
}

impl Contract<'_> {
    fn check(&self, prompts: &[Prompt]) -> Result<Vec<Law>> {
        let modes = self.modes()?;
        let rounds = prompts.len().div_ceil(self.args.batch);
        let mut progress = Progress::new("verifying", (rounds * (modes.len() + 2)) as u64, 0);
        let mut laws: Vec<Law> = modes.iter().map(|(name, _)| Law::named(name)).collect();
        let mut batched = Law::named(&format!(
            "batches of {} = each prompt alone",
            self.args.batch
        ));
        let mut early = Law::named(&format!(
            "exits at probability {} = their sub-models",
            self.args.threshold
        ));
        for (round, prompts) in prompts.chunks(self.args.batch).enumerate() {
            let first = round * self.args.batch;
            let full = || Mode::Static(self.exits.last());
            let plain = prompts
                .iter()
                .map(|prompt| Ok(self.decode(std::slice::from_ref(prompt), full())?.remove(0)));
            let plain: Vec<Vec<Step>> = plain.collect::<Result<_>>()?;
            progress.step("plain");
            let found = self.decode(prompts, full())?;
            self.compare(&mut batched, first, prompts, &plain, &found)?;
            for ((name, mode), law) in modes.iter().zip(&mut laws) {
                let found = self.decode(prompts, mode()?)?;
                self.compare(law, first, prompts, &plain, &found)?;
                progress.step(name);
            }
            let found = self.decode(prompts, self.dynamic(self.args.threshold))?;
            self.compare_early(&mut early, first, prompts, &found)?;
            progress.step("dynamic");
        }
        progress.finish();
        laws.insert(0, batched);
        laws.push(early);
        Ok(laws)
    }

    /// The ways of decoding that promise the full model's text.
    #[allow(clippy::type_complexity)]
    fn modes(&self) -> Result<Vec<(String, Box<dyn Fn() -> Result<Mode> + '_>)>> {
        let mut modes: Vec<(String, Box<dyn Fn() -> Result<Mode> + '_>)> = Vec::new();
        let depth = self.exits.last().depth();
        let drafting: Vec<Exit> = self.exits.iter().take(self.exits.len() - 1).collect();
        ensure!(
            !drafting.is_empty(),
            "exits {}: expected one before the full depth",
            self.exits
        );
        for exit in drafting {
            for length in [
                DraftLength::Fixed(4),
                DraftLength::Adaptive { start: 2, most: 8 },
            ] {
                let name = match length {
                    DraftLength::Fixed(_) => format!("speculative at {exit}, 4 tokens"),
                    _ => format!("speculative at {exit}, adaptive"),
                };
                modes.push((
                    name,
                    Box::new(move || Ok(Mode::Speculative(Speculation::at(exit, depth, length)?))),
                ));
            }
        }
        modes.push((
            "speculative, exit by confidence".to_owned(),
            Box::new(|| {
                Ok(Mode::Speculative(Speculation {
                    exits: self.exits.clone(),
                    policy: Box::new(Confidence(Thresholds::all(0.3))),
                    length: DraftLength::Confident {
                        least: 0.2,
                        most: 6,
                    },
                }))
            }),
        ));
        modes.push((
            "speculative, exit by saturation".to_owned(),
            Box::new(|| {
                Ok(Mode::Speculative(Speculation {
                    exits: self.exits.clone(),
                    policy: Box::new(Saturation(Thresholds::all(0.8))),
                    length: DraftLength::Fixed(3),
                }))
            }),
        ));
        modes.push((
            "automatic".to_owned(),
            Box::new(|| Ok(Mode::Auto(Tuner::new(self.exits.clone())))),
        ));
        modes.push((
            "dynamic, thresholds above 1".to_owned(),
            Box::new(|| Ok(self.dynamic(1.1))),
        ));
        Ok(modes)
    }

    fn dynamic(&self, threshold: f64) -> Mode {
        Mode::Dynamic(DynamicExits {
            exits: self.exits.clone(),
            policy: Box::new(Confidence(Thresholds::all(threshold))),
        })
    }

    fn decode(&self, prompts: &[Prompt], mode: Mode) -> Result<Vec<Vec<Step>>> {
        let mut settings =
            DecodeSettings::greedy(mode, self.args.max_new_tokens).stop_at(self.stop_tokens);
        settings.draft_tokens = self.draft_tokens.clone();
        let mut steps = vec![Vec::new(); prompts.len()];
        for step in Decoder::new(self.model, prompts, settings)? {
            let step = step?;
            steps[step.row].push(step);
        }
        Ok(steps)
    }

    /// Token for token, up to the first difference of each answer.
    fn compare(
        &self,
        law: &mut Law,
        first: usize,
        prompts: &[Prompt],
        expected: &[Vec<Step>],
        found: &[Vec<Step>],
    ) -> Result<()> {
        for (row, (expected, found)) in expected.iter().zip(found).enumerate() {
            law.answers += 1;
            let token =
                |steps: &[Step], position: usize| steps.get(position).map(|step| step.token);
            let longest = expected.len().max(found.len());
            let differs = (0..longest).find(|&p| token(expected, p) != token(found, p));
            let compared = differs.map_or(longest, |position| position + 1);
            let early = |step: &&Step| step.exit != self.exits.last();
            law.compared += compared;
            law.early += found.iter().take(compared).filter(early).count();
            let Some(position) = differs else { continue };
            law.different += 1;
            if law.first.is_none() {
                let (expected_token, found_token) =
                    (token(expected, position), token(found, position));
                let mut text = prompts[row].tokens.clone();
                text.extend(expected[..position].iter().map(|step| step.token));
                law.first = Some(Difference {
                    prompt: first + row,
                    position,
                    expected: expected_token,
                    found: found_token,
                    gap: self.gap(&text, self.exits.last(), expected_token, found_token)?,
                });
            }
        }
        Ok(())
    }

    /// Each token against the sub-model of the exit that named it, run over the finished text.
    fn compare_early(
        &self,
        law: &mut Law,
        first: usize,
        prompts: &[Prompt],
        found: &[Vec<Step>],
    ) -> Result<()> {
        for (row, steps) in found
            .iter()
            .enumerate()
            .filter(|(_, steps)| !steps.is_empty())
        {
            let mut text = prompts[row].tokens.clone();
            let prompt = text.len();
            text.extend(steps.iter().map(|step| step.token));
            let named = self.names(&text[..text.len() - 1], prompt - 1)?;
            law.answers += 1;
            for (position, step) in steps.iter().enumerate() {
                let exit = self.exits.iter().position(|exit| exit == step.exit);
                let expected = named[exit.context("an exit that was not asked for")?][position];
                law.compared += 1;
                law.early += usize::from(step.exit != self.exits.last());
                if expected == step.token {
                    continue;
                }
                law.different += 1;
                if law.first.is_none() {
                    let text = &text[..prompt + position];
                    law.first = Some(Difference {
                        prompt: first + row,
                        position,
                        expected: Some(expected),
                        found: Some(step.token),
                        gap: self.gap(text, step.exit, Some(expected), Some(step.token))?,
                    });
                }
            }
        }
        Ok(())
    }

    /// The token that each exit's sub-model names after every position of `text` from `from` on.
    fn names(&self, text: &[u32], from: usize) -> Result<Vec<Vec<u32>>> {
        let model = self.model;
        let mut cache = model.empty_cache(1, text.len())?;
        let mut hidden = model.embed(&model.tokens(&[text.to_vec()])?)?;
        let positions: Vec<usize> = (from..text.len()).collect();
        let mut named = Vec::new();
        for (segment, exit) in self.exits.segments().zip(self.exits.iter()) {
            let past = Past {
                cache: &mut cache,
                query_lens: &[text.len()],
            };
            hidden = model.blocks(hidden, segment, Some(past))?;
            let states = model.select(&hidden, &positions)?;
            named.push(model.best_tokens(&states, Head::Full(exit))?);
        }
        Ok(named)
    }

    /// How far apart the logits of two tokens are after `text`.
    fn gap(&self, text: &[u32], exit: Exit, a: Option<u32>, b: Option<u32>) -> Result<Option<f32>> {
        let (Some(a), Some(b)) = (a, b) else {
            return Ok(None);
        };
        let model = self.model;
        let hidden = model.embed(&model.tokens(&[text.to_vec()])?)?;
        let past = Past {
            cache: &mut model.empty_cache(1, text.len())?,
            query_lens: &[text.len()],
        };
        let hidden = model.blocks(hidden, 0..exit.depth(), Some(past))?;
        let last = model.select(&hidden, &[text.len() - 1])?;
        let logits = model.logit_rows(&last, Head::Full(exit))?.remove(0);
        Ok(Some(logits[a as usize] - logits[b as usize]))
    }
}
