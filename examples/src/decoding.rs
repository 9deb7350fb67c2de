//! How to decode, from the command line: mode, policy, draft length, sampler.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use soft_burn::{LlamaConfig, SoftInfo, draft_tokens};
use soft_core::decode::{DraftLength, DynamicExits, Speculation, Tuner};
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
    /// When a token leaves, where --mode is dynamic: confidence or margin (above the threshold),
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

/// What the model brings to its decoding.
#[derive(Debug)]
pub struct Trained {
    /// Number of blocks.
    pub depth: usize,
    /// The exits it was trained at; none for a model that was not.
    pub exits: Option<Exits>,
    /// Frequent tokens to draft with.
    pub draft_tokens: Option<Vec<u32>>,
    /// Rules with calibrated thresholds, the preferred one first.
    pub calibrated: Vec<CalibratedExits>,
}

impl Trained {
    /// Reads what lies in the model's folder.
    pub fn load(folder: &Path, config: &LlamaConfig) -> Result<Self> {
        let draft_tokens = draft_tokens(folder)?;
        if let Some(tokens) = &draft_tokens {
            let (path, vocab) = (folder.join("draft_tokens.json"), config.vocab);
            let outside = tokens.iter().find(|&&token| token as usize >= vocab);
            ensure!(
                outside.is_none() && !tokens.is_empty(),
                "{}: expected token ids below {vocab}, found {}",
                path.display(),
                outside.map_or("none".to_owned(), u32::to_string)
            );
        }
        let info = SoftInfo::load(folder)?;
        Ok(Self {
            depth: config.n_layers,
            exits: info.as_ref().map(|info| info.exits.clone()),
            draft_tokens,
            calibrated: info.map_or(Vec::new(), |info| info.calibrated),
        })
    }

    /// The exits asked for, or those the model was trained at; the last is the full depth.
    pub fn exits(&self, asked: Option<&Exits>) -> Result<Exits> {
        let exits = asked.or(self.exits.as_ref());
        let exits = exits.context("the model has no soft.json that lists exits: give --exits")?;
        Ok(exits.clone().for_depth(self.depth)?)
    }
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

    /// The same with these exits, where the mode chooses among exits.
    pub fn with_exits(mut self, exits: Option<&Exits>) -> Self {
        let dynamic = self.mode.starts_with("dynamic");
        let modes = ["auto", "speculative", "speculative=dynamic"];
        if dynamic || modes.contains(&self.mode.as_str()) {
            self.exits = exits.cloned();
        }
        self
    }

    /// Everything that decides what is decoded, what is taken from the model's folder among it: two
    /// runs of the same description do the same.
    pub fn description(&self, trained: &Trained) -> Result<String> {
        let rule = if self.decides() {
            Some(self.rule(trained)?.to_string())
        } else {
            None
        };
        let exits = trained.exits(self.exits.as_ref()).ok();
        Ok(format!("{self:?} {exits:?} {rule:?}"))
    }

    /// Whether a policy decides where tokens leave.
    pub fn decides(&self) -> bool {
        ["dynamic", "speculative=dynamic"].contains(&self.mode.as_str())
    }

    /// Refuses what the mode has no use for and would pass over in silence.
    pub fn refuse_unused(&self) -> Result<()> {
        let mode = self.mode.as_str();
        let decides = self.decides();
        let ruled = mode.starts_with("dynamic:");
        let drafts = mode.starts_with("speculative");
        let (auto, dynamic) = (mode == "auto", mode == "dynamic" || ruled);
        let chooses = decides || dynamic || auto || mode == "speculative";
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
                "{argument} does nothing in --mode {mode}: it is for {modes}"
            );
        }
        Ok(())
    }

    /// The settings for a model.
    pub fn settings(&self, trained: &Trained, tokenizer: &Tokenizer) -> Result<DecodeSettings> {
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

    fn mode(&self, trained: &Trained) -> Result<Mode> {
        let depth = trained.depth;
        if let Some(rule) = self.mode.strip_prefix("dynamic:") {
            let rule: ExitRule = rule.parse()?;
            rule.check_range()?;
            return self.dynamic(trained, &rule);
        }
        Ok(
            match self.mode.split_once('=').unwrap_or((&self.mode, "")) {
                ("full", "") => Mode::Static(Exit::new(depth)?),
                ("exit", exit) => Mode::Static(exit_of(exit)?),
                ("dynamic", "") => self.dynamic(trained, &self.rule(trained)?)?,
                ("speculative", "dynamic") => Mode::Speculative(Speculation {
                    exits: trained.exits(self.exits.as_ref())?,
                    policy: self.rule(trained)?.policy(),
                    length: self.length()?,
                }),
                ("speculative", exit) => {
                    let exit = match exit {
                        "" => self.first_exit(trained)?,
                        exit => exit_of(exit)?,
                    };
                    Mode::Speculative(Speculation::at(exit, depth, self.length()?)?)
                }
                ("auto", "") => Mode::Auto(Tuner::new(trained.exits(self.exits.as_ref())?)),
                _ => bail!(
                    "unknown mode {:?}: expected full, exit=N, dynamic, dynamic:RULE, speculative, speculative=N, speculative=dynamic or auto",
                    self.mode
                ),
            },
        )
    }

    fn first_exit(&self, trained: &Trained) -> Result<Exit> {
        let exits = trained.exits(self.exits.as_ref())?;
        ensure!(
            exits.len() > 1,
            "exits {exits}: expected one that can draft before the full model"
        );
        exits.iter().next().context("no exit")
    }

    fn dynamic(&self, trained: &Trained, rule: &ExitRule) -> Result<Mode> {
        Ok(Mode::Dynamic(DynamicExits {
            exits: trained.exits(self.exits.as_ref())?,
            policy: rule.policy(),
        }))
    }

    /// The calibrated rule that applies where no threshold was asked for.
    fn calibrated<'a>(&self, trained: &'a Trained) -> Result<Option<&'a CalibratedExits>> {
        let exits = trained.exits(self.exits.as_ref())?;
        let policy = self.policy.as_deref();
        let fits = |calibrated: &&CalibratedExits| {
            let criterion = calibrated.rule.criterion();
            calibrated.exits == exits && policy.is_none_or(|policy| policy == criterion.name())
        };
        let mut rules = trained.calibrated.iter();
        Ok(rules.find(fits).filter(|_| self.thresholds.is_none()))
    }

    /// When a token leaves: as asked for, else as calibrated, else by the usual thresholds.
    pub fn rule(&self, trained: &Trained) -> Result<ExitRule> {
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
        Ok(match text.split_once('=').unwrap_or((text, "")) {
            ("adaptive", "") => DraftLength::Adaptive { start: 3, most: 8 },
            ("confident", least) => DraftLength::Confident {
                least: least
                    .parse()
                    .with_context(|| format!("draft length {text:?}: expected confident=0.3"))?,
                most: 8,
            },
            (number, "") => DraftLength::Fixed(number.parse().with_context(|| {
                format!("draft length {text:?}: expected a number, adaptive or confident=0.3")
            })?),
            _ => bail!("draft length {text:?}: expected a number, adaptive or confident=0.3"),
        })
    }
}

fn exit_of(text: &str) -> Result<Exit> {
    let depth: usize = text
        .parse()
        .with_context(|| format!("exit {text:?}: expected a depth, such as 12"))?;
    Ok(Exit::new(depth)?)
}

/// Automatic mode goes on with what it learnt from earlier prompts.
pub fn keep_what_was_learnt(settings: &mut DecodeSettings, tuner: &mut Option<Tuner>) {
    if let (Mode::Auto(fresh), Some(learnt)) = (&mut settings.mode, tuner.take()) {
        *fresh = learnt;
    }
}
