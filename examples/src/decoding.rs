//! Decoding settings from the command line: mode, policy, draft length, sampler.

use anyhow::{Context, Result, ensure};
use clap::Args;
use soft_burn::DecodingDefaults;
use soft_core::decode::{DraftExit, DraftLength, DynamicExits, ModeSpec, Speculation, Tuner};
use soft_core::policy::{CalibratedExits, Criterion, ExitRule};
use soft_core::{DecodeSettings, Example, Exit, Exits, Mode, Sampling, Thresholds};
use soft_data::{Tokenizer, frequent_tokens};

/// Tokens of a draft head, unless asked otherwise: few, since a shallow exit is seldom right about
/// rare tokens and its draft costs hardly more than reading the head. `docs/results.md` has what
/// other counts gave.
pub const DRAFT_TOKENS: usize = 2048;

/// The tokens to draft with after learning from these rows; none for a vocabulary so small that its
/// full head is cheap.
pub fn draft_tokens_of(examples: &[Example], vocab: usize) -> Option<Vec<u32>> {
    (vocab >= 4 * DRAFT_TOKENS).then(|| frequent_tokens(examples, DRAFT_TOKENS))
}

/// Settings of a decoder.
#[derive(Args, Debug, Clone)]
pub struct DecodingArgs {
    /// full, exit=12, dynamic, dynamic:RULE such as dynamic:margin=12:0.8,20:0.6, speculative
    /// (drafts at the first exit), speculative=12, speculative=dynamic or auto
    #[arg(long, default_value = "full")]
    pub mode: String,
    /// Exits to use, the last one the full depth [default: those the model was trained at]
    #[arg(long)]
    pub exits: Option<Exits>,
    /// When a token exits, where --mode is dynamic: confidence or margin (above the threshold),
    /// entropy (below, in nats), saturation (cosine to the exit before, above) or patience=2 (exits
    /// in a row that agree) [default: what the folder was calibrated with, else confidence]
    #[arg(long)]
    pub policy: Option<String>,
    /// Thresholds of the policy: one for all exits, or each with its own: 12:0.95,20:0.9 [default:
    /// calibrated ones, else 0.9; entropy 0.5; saturation 0.98]
    #[arg(long)]
    pub thresholds: Option<Thresholds>,
    /// Tokens per draft: 4, adaptive (3 at first, up to 8) or confident=0.3 (while the whole draft
    /// is more probable than that, up to 8) [default: adaptive]
    #[arg(long)]
    pub draft_length: Option<String>,
    /// Draft with the full head even if the model has a list of draft tokens
    #[arg(long)]
    pub full_draft_head: bool,
    /// Most tokens of an answer
    #[arg(long, default_value_t = 256)]
    pub max_new_tokens: usize,
    /// Go on past end-of-text tokens
    #[arg(long)]
    pub ignore_eos: bool,
    /// Divides the logits; 0 is greedy
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f64,
    /// Sample among the K best tokens
    #[arg(long)]
    pub top_k: Option<usize>,
    /// Sample among the best tokens that together have this probability
    #[arg(long)]
    pub top_p: Option<f64>,
    /// Sample among tokens at least this probable, relative to the best
    #[arg(long)]
    pub min_p: Option<f64>,
    /// Above 1, tokens that have appeared become less likely
    #[arg(long, default_value_t = 1.0)]
    pub repetition_penalty: f64,
}

/// The exits asked for, or those the model was trained at; the last is the full depth.
pub fn exits_of(model: &DecodingDefaults, asked: Option<&Exits>) -> Result<Exits> {
    let exits = asked.or(model.exits.as_ref());
    let exits = exits.context("the model has no soft.json that lists exits: give --exits")?;
    Ok(exits.clone().for_depth(model.depth)?)
}

impl DecodingArgs {
    /// A greedy mode with everything else as by default.
    pub fn of_mode(mode: &str, max_new_tokens: usize) -> Self {
        Self {
            mode: mode.to_owned(),
            exits: None,
            policy: None,
            thresholds: None,
            draft_length: None,
            full_draft_head: false,
            max_new_tokens,
            ignore_eos: false,
            temperature: 0.0,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: 1.0,
        }
    }

    fn spec(&self) -> Result<ModeSpec> {
        Ok(self.mode.parse()?)
    }

    /// The same with these exits, where the mode chooses among exits.
    pub fn with_exits(mut self, exits: Option<&Exits>) -> Self {
        if self.spec().is_ok_and(|mode| mode.chooses_exits()) {
            self.exits = exits.cloned();
        }
        self
    }

    /// Everything that decides what is decoded, what is taken from the model's folder among it: two
    /// runs of the same description do the same.
    pub fn description(&self, trained: &DecodingDefaults) -> Result<String> {
        let rule = if self.decides() {
            Some(self.rule(trained)?.to_string())
        } else {
            None
        };
        let exits = exits_of(trained, self.exits.as_ref()).ok();
        Ok(format!("{self:?} {exits:?} {rule:?}"))
    }

    /// Whether `--policy` decides where tokens exit.
    pub fn decides(&self) -> bool {
        self.spec().is_ok_and(|mode| mode.needs_rule())
    }

    /// Refuses arguments that the mode would ignore.
    pub fn refuse_unused(&self) -> Result<()> {
        let (mode, name) = (self.spec()?, &self.mode);
        let decides = mode.needs_rule();
        let drafts = mode.drafts();
        let auto = mode == ModeSpec::Auto;
        let chooses = mode.chooses_exits();
        let deciding = "dynamic and speculative=dynamic";
        let arguments = [
            ("--policy", self.policy.is_some(), decides, deciding),
            ("--thresholds", self.thresholds.is_some(), decides, deciding),
            (
                "--draft-length",
                self.draft_length.is_some(),
                drafts,
                "speculative",
            ),
            (
                "--full-draft-head",
                self.full_draft_head,
                drafts || auto,
                "speculative and auto",
            ),
            (
                "--exits",
                self.exits.is_some(),
                chooses,
                "dynamic, speculative and auto",
            ),
        ];
        for (argument, given, used, modes) in arguments {
            ensure!(
                used || !given,
                "{argument} does nothing in --mode {name}: it is for {modes}"
            );
        }
        Ok(())
    }

    /// The settings for a model.
    pub fn settings(
        &self,
        trained: &DecodingDefaults,
        tokenizer: &Tokenizer,
    ) -> Result<DecodeSettings> {
        let filters = self.top_k.is_some() || self.top_p.is_some() || self.min_p.is_some();
        ensure!(
            self.temperature != 0.0 || !filters,
            "--top-k, --top-p and --min-p choose what is sampled: give a --temperature above 0"
        );
        let stop_tokens = if self.ignore_eos {
            Vec::new()
        } else {
            tokenizer.stop_tokens().to_vec()
        };
        Ok(DecodeSettings {
            mode: self.mode(trained)?,
            sampling: Sampling {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
                repetition_penalty: self.repetition_penalty,
            },
            max_new_tokens: self.max_new_tokens,
            stop_tokens,
            draft_tokens: trained
                .draft_tokens
                .clone()
                .filter(|_| !self.full_draft_head),
        })
    }

    fn mode(&self, trained: &DecodingDefaults) -> Result<Mode> {
        let exits = || exits_of(trained, self.exits.as_ref());
        Ok(match self.spec()? {
            ModeSpec::Full => Mode::Static(Exit::new(trained.depth)?),
            ModeSpec::Exit(exit) => Mode::Static(exit),
            ModeSpec::Dynamic(rule) => {
                let rule = rule.map_or_else(|| self.rule(trained), Ok)?;
                Mode::Dynamic(DynamicExits {
                    exits: exits()?,
                    policy: rule.policy(),
                })
            }
            ModeSpec::Speculative(DraftExit::ByRule) => Mode::Speculative(Speculation {
                exits: exits()?,
                policy: self.rule(trained)?.policy(),
                length: self.length()?,
            }),
            ModeSpec::Speculative(draft) => {
                let exit = match draft {
                    DraftExit::At(exit) => exit,
                    _ => self.first_exit(trained)?,
                };
                Mode::Speculative(Speculation::at(exit, trained.depth, self.length()?)?)
            }
            ModeSpec::Auto => Mode::Auto(Tuner::new(exits()?)),
        })
    }

    fn first_exit(&self, trained: &DecodingDefaults) -> Result<Exit> {
        let exits = exits_of(trained, self.exits.as_ref())?;
        ensure!(
            exits.len() > 1,
            "exits {exits}: expected one that can draft before the full model"
        );
        exits.iter().next().context("no exit")
    }

    /// The calibrated rule that applies where no threshold was asked for.
    fn calibrated<'a>(&self, trained: &'a DecodingDefaults) -> Result<Option<&'a CalibratedExits>> {
        let exits = exits_of(trained, self.exits.as_ref())?;
        let policy = self.policy.as_deref();
        let fits = |calibrated: &&CalibratedExits| {
            let criterion = calibrated.rule.criterion();
            calibrated.exits == exits && policy.is_none_or(|policy| policy == criterion.name())
        };
        let mut rules = trained.calibrated.iter();
        Ok(rules.find(fits).filter(|_| self.thresholds.is_none()))
    }

    /// When a token exits: as asked for, else as calibrated, else by the usual thresholds.
    pub fn rule(&self, trained: &DecodingDefaults) -> Result<ExitRule> {
        if let Some(calibrated) = self.calibrated(trained)? {
            return Ok(calibrated.rule.clone());
        }
        let policy = self.policy.as_deref().unwrap_or("confidence");
        if let Some(exits) = policy.strip_prefix("patience=") {
            ensure!(
                self.thresholds.is_none(),
                "--thresholds does nothing for patience, which counts exits"
            );
            let exits = exits
                .parse()
                .with_context(|| format!("patience {exits:?}: expected a number of exits"))?;
            return Ok(ExitRule::Patience(exits));
        }
        let usual = match policy {
            "entropy" => 0.5,
            "saturation" => 0.98,
            _ => 0.9,
        };
        let thresholds = self.thresholds.clone();
        let thresholds = thresholds.unwrap_or(Thresholds::all(usual));
        let rule = policy
            .parse()
            .ok()
            .and_then(|criterion: Criterion| criterion.rule(thresholds));
        let rule = rule.with_context(|| {
            format!(
                "unknown policy {policy:?}: expected confidence, margin, entropy, saturation or patience=N"
            )
        })?;
        rule.check_range()?;
        Ok(rule)
    }

    fn length(&self) -> Result<DraftLength> {
        let text = self.draft_length.as_deref().unwrap_or("adaptive");
        Ok(text.parse()?)
    }
}

/// Automatic mode continues with its measurements of earlier prompts.
pub fn keep_measurements(settings: &mut DecodeSettings, tuner: &mut Option<Tuner>) {
    if let (Mode::Auto(fresh), Some(learnt)) = (&mut settings.mode, tuner.take()) {
        *fresh = learnt;
    }
}
