//! Decoding arguments of the command line, and the decoder settings made of them.

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use soft_burn::DecodingDefaults;
use soft_core::decode::{DraftExit, DraftLength, DynamicExits, ModeSpec, Speculation, Tuner};
use soft_core::policy::{CalibratedExits, ExitHead, ExitRule};
use soft_core::{DecodeSettings, Exit, Exits, Mode, Sampling, Thresholds};
use soft_data::Tokenizer;
use soft_eval::numbers::percent;

use crate::evaluation::fingerprint_of;
use crate::policy::parse_policy;

/// Settings of a decoder. Journals identify answers by the `Debug` text of this struct.
#[derive(Args, Debug, Clone)]
pub struct DecodingArgs {
    /// Decoding mode: full, exit=12, dynamic, dynamic:RULE such as
    /// dynamic:margin=12:0.8,20:0.6 (dynamic:draft:RULE: exits use the head of the model's draft
    /// tokens), speculative (drafts at the first exit), speculative=12,
    /// speculative=dynamic or auto
    #[arg(long, default_value = "full")]
    pub mode: String,
    /// Exits to use, the last one the full depth [default: those the model was trained at]
    #[arg(long)]
    pub exits: Option<Exits>,
    /// When a token exits, in dynamic modes: confidence or margin (above the threshold), entropy
    /// (below it, in nats), probe (what `soft calibrate` fitted, above it), saturation (cosine to
    /// the state at the exit before, above it) or patience=2 (exits in a row that agree) [default:
    /// what the folder was calibrated with, else confidence]
    #[arg(long)]
    pub policy: Option<String>,
    /// Thresholds of the policy: one for all exits, or one per exit: 12:0.95,20:0.9 [default:
    /// calibrated ones, else 0.9; entropy 0.5; saturation 0.98]
    #[arg(long)]
    pub thresholds: Option<Thresholds>,
    /// Tokens per draft: 4, adaptive (3 at first, up to 8) or confident=0.3 (as long as the whole
    /// draft is more probable than that, up to 8) [default: adaptive]
    #[arg(long)]
    pub draft_length: Option<String>,
    /// Draft with the full head even if the model has a list of draft tokens
    #[arg(long)]
    pub full_draft_head: bool,
    /// Maximum number of tokens of an answer
    #[arg(long, default_value_t = 256)]
    pub max_new_tokens: usize,
    /// Continue after end-of-text tokens
    #[arg(long)]
    pub ignore_eos: bool,
    /// Divides the logits; 0 is greedy
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f64,
    /// Sample among the K most probable tokens
    #[arg(long)]
    pub top_k: Option<usize>,
    /// Sample among the most probable tokens that together have this probability
    #[arg(long)]
    pub top_p: Option<f64>,
    /// Sample among tokens at least this probable, relative to the most probable
    #[arg(long)]
    pub min_p: Option<f64>,
    /// Above 1, tokens that have appeared become less probable
    #[arg(long, default_value_t = 1.0)]
    pub repetition_penalty: f64,
}

impl DecodingArgs {
    /// A greedy mode with defaults for everything else.
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

    /// Sets the exits, if the mode chooses among exits.
    pub fn with_exits(mut self, exits: Option<&Exits>) -> Self {
        if self.spec().is_ok_and(|mode| mode.chooses_exits()) {
            self.exits = exits.cloned();
        }
        self
    }

    /// A text that identifies the answers of a model, including what its folder defines.
    pub fn description(&self, trained: &DecodingDefaults) -> Result<String> {
        let rule = self.chosen_rule(trained)?.map(|rule| rule.to_string());
        let exits = exits_of(trained, self.exits.as_ref()).ok();
        let mut text = format!("{self:?} {exits:?} {rule:?}");
        if let Mode::Dynamic(dynamic) = self.mode(trained)? {
            if dynamic.head == ExitHead::Draft {
                let tokens = format!("{:?}", trained.draft_tokens);
                text += &format!(" draft {}", fingerprint_of(tokens.as_bytes()));
            }
            if let Some(probes) = &trained.probes {
                text += &format!(
                    " probes {}",
                    fingerprint_of(format!("{probes:?}").as_bytes())
                );
            }
        }
        Ok(text)
    }

    /// Whether the mode gives the full model's tokens whatever its exits are, as plain decoding and
    /// verified drafts do.
    pub fn gives_the_full_models_tokens(&self) -> Result<bool> {
        Ok(match self.spec()? {
            ModeSpec::Full | ModeSpec::Speculative(_) | ModeSpec::Auto => true,
            ModeSpec::Exit(_) | ModeSpec::Dynamic | ModeSpec::DynamicBy(..) => false,
        })
    }

    /// Refuses arguments that have no effect in the mode.
    pub fn refuse_unused(&self) -> Result<()> {
        let mode = self.spec()?;
        let (policy, dynamic) = (mode.needs_rule(), "dynamic and speculative=dynamic");
        let exits = "dynamic, speculative and auto";
        let arguments = [
            ("--policy", self.policy.is_some(), policy, dynamic),
            ("--thresholds", self.thresholds.is_some(), policy, dynamic),
            (
                "--draft-length",
                self.draft_length.is_some(),
                mode.drafts(),
                "speculative",
            ),
            (
                "--full-draft-head",
                self.full_draft_head,
                mode.drafts() || mode == ModeSpec::Auto,
                "speculative and auto",
            ),
            ("--exits", self.exits.is_some(), mode.chooses_exits(), exits),
        ];
        for (argument, given, used, modes) in arguments {
            ensure!(
                used || !given,
                "{argument} does nothing in --mode {}: it is for {modes}",
                self.mode
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
            "--top-k, --top-p and --min-p select what is sampled: give a --temperature above 0"
        );
        let stop_tokens = if self.ignore_eos {
            Vec::new()
        } else {
            tokenizer.stop_tokens().to_vec()
        };
        Ok(DecodeSettings {
            mode: self.mode(trained)?,
            sampling: self.sampling(),
            max_new_tokens: self.max_new_tokens,
            stop_tokens,
            draft_tokens: trained
                .draft_tokens
                .clone()
                .filter(|_| !self.full_draft_head),
            probes: trained.probes.clone(),
            logprobs: None,
        })
    }

    fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
        }
    }

    fn mode(&self, trained: &DecodingDefaults) -> Result<Mode> {
        let exits = || exits_of(trained, self.exits.as_ref());
        let length = || -> Result<DraftLength> {
            Ok(self.draft_length.as_deref().unwrap_or("adaptive").parse()?)
        };
        Ok(match self.spec()? {
            ModeSpec::Full => Mode::Static(Exit::new(trained.depth)?),
            ModeSpec::Exit(exit) => Mode::Static(exit),
            ModeSpec::Dynamic | ModeSpec::DynamicBy(..) => {
                let (rule, head) = match self.spec()? {
                    ModeSpec::DynamicBy(rule, head) => (rule, head),
                    _ => (self.rule(trained)?, self.head(trained)?),
                };
                let exits = exits()?;
                refuse_missing(&rule, head, (trained, &exits))?;
                Mode::Dynamic(DynamicExits {
                    head,
                    ..DynamicExits::new(exits, rule.policy())
                })
            }
            ModeSpec::Speculative(DraftExit::ByRule) => {
                let rule = self.rule(trained)?;
                let exits = exits()?;
                refuse_missing(&rule, ExitHead::Full, (trained, &exits))?;
                Mode::Speculative(Speculation {
                    exits,
                    policy: rule.policy(),
                    length: length()?,
                })
            }
            ModeSpec::Speculative(draft) => {
                let exit = match draft {
                    DraftExit::At(exit) => exit,
                    _ => first_exit(&exits()?)?,
                };
                Mode::Speculative(Speculation::at(exit, trained.depth, length()?)?)
            }
            ModeSpec::Auto => Mode::Auto(Tuner::new(exits()?)),
        })
    }

    /// The exit rule, in modes that need one besides their name.
    pub fn chosen_rule(&self, trained: &DecodingDefaults) -> Result<Option<ExitRule>> {
        if self.spec()?.needs_rule() {
            Ok(Some(self.rule(trained)?))
        } else {
            Ok(None)
        }
    }

    /// A warning if the calibrated rule in use is not guaranteed for these settings.
    pub fn beyond_guarantee(&self, trained: &DecodingDefaults) -> Result<Option<String>> {
        // Drafts are verified, whatever the rule.
        if self.spec()? != ModeSpec::Dynamic {
            return Ok(None);
        }
        let Some(calibrated) = self.calibrated(trained)? else {
            return Ok(None);
        };
        let reason = calibrated.beyond(self.max_new_tokens, &self.sampling());
        Ok(reason.map(|reason| {
            let limit = percent(calibrated.disagreement);
            format!("warning: the calibrated limit of {limit} % is not guaranteed here: {reason}")
        }))
    }

    /// The calibrated rule unless thresholds are given, else that of the arguments.
    fn rule(&self, trained: &DecodingDefaults) -> Result<ExitRule> {
        if let Some(calibrated) = self.calibrated(trained)? {
            return Ok(calibrated.rule.clone());
        }
        let policy = self.policy.as_deref().unwrap_or("confidence");
        parse_policy(policy, self.thresholds.clone())
    }

    /// The head of the early exits of the rule.
    fn head(&self, trained: &DecodingDefaults) -> Result<ExitHead> {
        let calibrated = self.calibrated(trained)?;
        Ok(calibrated.map_or(ExitHead::Full, |calibrated| calibrated.head))
    }

    /// The first calibrated rule of these exits and this policy, if no thresholds are given.
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
}

/// Refuses a rule without the parts of the folder that it needs.
fn refuse_missing(
    rule: &ExitRule,
    head: ExitHead,
    (trained, exits): (&DecodingDefaults, &Exits),
) -> Result<()> {
    ensure!(
        head == ExitHead::Full || trained.draft_tokens.is_some(),
        "exit rule {rule} with a draft head: the model has no list of draft tokens (`soft draft-tokens` \
         makes one)"
    );
    let ExitRule::Probe(thresholds) = rule else {
        return Ok(());
    };
    let probes = trained.probes.as_ref().with_context(|| {
        format!("exit rule {rule}: the model has no probes (`soft calibrate` fits them)")
    })?;
    let mut early = exits.iter().take(exits.len() - 1);
    let asked = |exit: Exit| thresholds.at(exit).is_some();
    match early.find(|exit| asked(*exit) && probes.at(*exit).is_none()) {
        Some(exit) => bail!("exit rule {rule}: the model has no probe at exit {exit}"),
        None => Ok(()),
    }
}

fn first_exit(exits: &Exits) -> Result<Exit> {
    ensure!(
        exits.len() > 1,
        "exits {exits}: expected one that can draft before the full model"
    );
    exits.iter().next().context("no exit")
}

/// Passes what automatic mode measured on earlier prompts to the next decoder.
pub fn keep_tuner(settings: &mut DecodeSettings, tuner: &mut Option<Tuner>) {
    if let (Mode::Auto(fresh), Some(tuned)) = (&mut settings.mode, tuner.take()) {
        *fresh = tuned;
    }
}

/// The given exits, or those of the training. The last is the full depth.
pub fn exits_of(model: &DecodingDefaults, asked: Option<&Exits>) -> Result<Exits> {
    let exits = asked.or(model.exits.as_ref());
    let exits = exits.context("the model has no soft.json that lists exits: give --exits")?;
    Ok(exits.clone().for_depth(model.depth)?)
}
