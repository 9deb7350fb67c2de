//! Cases for the decoding laws: modes, and policies with which some tokens exit early.

use super::uncached::Uncached;
use super::{DecodingLaws, LawBroken, Observed, failed};
use crate::decode::draft::DraftLength;
use crate::decode::settings::{DecodeSettings, DynamicExits, Mode, Speculation};
use crate::decode::tuner::Tuner;
use crate::exit::ExitError;
use crate::exit::{Exit, Exits};
use crate::model::decode_model::Score;
use crate::policy::calibrated::ExitHead;
use crate::policy::exit_policy::{
    Both, Confidence, Either, Entropy, ExitPolicy, Margin, Patience, Probed, Saturation,
};
use crate::policy::probe::{ExitProbe, ExitProbes};
use crate::policy::thresholds::Thresholds;
use crate::random::Random;
use crate::sampling::sampler::Sampling;

#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    Static(Exit),
    Dynamic(Rule),
    /// Drafts at one exit.
    Draft(Exit, DraftLength),
    /// Drafts at the exits that the policy chooses.
    Both(Rule, DraftLength),
    Auto,
}

/// A policy, with thresholds that suit the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rule {
    Never,
    Confidence,
    Margin,
    Entropy,
    Saturation,
    Probed,
    Patience,
    SaturatedAndConfident,
    ConfidentOrSaturated,
    PatientOrSaturated,
}

impl Rule {
    /// All rules with which some tokens exit early.
    pub const LEAVING: [Self; 9] = [
        Self::Confidence,
        Self::Margin,
        Self::Entropy,
        Self::Saturation,
        Self::Probed,
        Self::Patience,
        Self::SaturatedAndConfident,
        Self::ConfidentOrSaturated,
        Self::PatientOrSaturated,
    ];
}

#[derive(Clone, Debug)]
pub(super) struct Case {
    pub law: &'static str,
    pub way: Way,
    pub sampling: Sampling,
    pub max_new_tokens: usize,
    pub stop_tokens: Vec<u32>,
    pub draft_tokens: Option<Vec<u32>>,
}

impl Case {
    pub fn greedy(law: &'static str, way: Way, max_new_tokens: usize) -> Self {
        Self {
            law,
            way,
            sampling: Sampling::greedy(),
            max_new_tokens,
            stop_tokens: Vec::new(),
            draft_tokens: None,
        }
    }

    pub fn speculative(&self) -> bool {
        matches!(self.way, Way::Draft(..) | Way::Both(..) | Way::Auto)
    }

    /// Whether a row's tokens depend on measured times: automatic mode chooses drafts by them, and
    /// with the drafts the number of random draws. The distribution is preserved.
    pub fn depends_on_time(&self) -> bool {
        matches!(self.way, Way::Auto) && !self.sampling.is_greedy()
    }

    pub fn ensure(
        &self,
        holds: bool,
        row: usize,
        what: impl FnOnce() -> String,
    ) -> Result<(), LawBroken> {
        if holds {
            return Ok(());
        }
        Err(LawBroken::Untrue {
            law: self.law,
            place: format!("row {row} of {self:?}"),
            what: what(),
        })
    }
}

/// Per exit, thresholds from the model's own texts: probability, margin, entropy, cosine, probe.
pub(super) struct Typical {
    exits: Exits,
    values: Vec<[f64; 5]>,
    /// With weights drawn at random.
    pub probes: ExitProbes,
}

impl Typical {
    /// Values such that a share `staying` of all tokens does not exit at each exit.
    pub fn of<M: Observed>(
        laws: &DecodingLaws<M>,
        law: &'static str,
        texts: &[Vec<u32>],
    ) -> Result<Self, LawBroken> {
        let probes = random_probes(laws, law)?;
        let known = (&laws.exits, &probes);
        let mut seen = vec![[const { Vec::new() }; 5]; laws.exits.len()];
        for (text, prompt) in texts.iter().zip(&laws.prompts) {
            let uncached = Uncached::of(law, laws.model, known, text)?;
            for position in prompt.tokens.len() - 1..text.len() {
                for (index, seen) in seen.iter_mut().enumerate() {
                    let signals = uncached.signals(index, position);
                    let score = signals.score;
                    let of = |measure: fn(&Score) -> f32| score.as_ref().map_or(0.0, measure);
                    seen[0].push(of(|score| score.probability));
                    seen[1].push(of(Score::margin));
                    seen[2].push(of(|score| score.entropy));
                    seen[3].push(signals.similarity.unwrap_or(0.0));
                    seen[4].push(signals.probe.unwrap_or(0.0));
                }
            }
        }
        let staying = laws.staying;
        // Tokens exit at low entropies, but at high values of the others.
        let shares = [staying, staying, 1.0 - staying, staying, staying];
        let values = seen.into_iter().map(|seen| {
            let mut share = shares.into_iter();
            seen.map(|values| between(values, share.next().unwrap_or(staying)))
        });
        Ok(Self {
            values: values.collect(),
            exits: laws.exits.clone(),
            probes,
        })
    }

    fn thresholds(&self, measure: usize) -> Thresholds {
        let pairs = self.exits.iter().zip(&self.values);
        Thresholds::each(pairs.map(|(exit, values)| (exit, values[measure])))
    }

    pub fn policy(&self, rule: Rule) -> Box<dyn ExitPolicy> {
        let confidence = || Box::new(Confidence(self.thresholds(0)));
        let saturation = || Box::new(Saturation(self.thresholds(3)));
        match rule {
            Rule::Never => Box::new(Confidence(Thresholds::all(1.5))),
            Rule::Confidence => confidence(),
            Rule::Margin => Box::new(Margin(self.thresholds(1))),
            Rule::Entropy => Box::new(Entropy(self.thresholds(2))),
            Rule::Saturation => saturation(),
            Rule::Probed => Box::new(Probed(self.thresholds(4))),
            Rule::Patience => Box::new(Patience::new(2)),
            Rule::SaturatedAndConfident => Box::new(Both(saturation(), confidence())),
            Rule::ConfidentOrSaturated => Box::new(Either(confidence(), saturation())),
            Rule::PatientOrSaturated => Box::new(Either(Box::new(Patience::new(2)), saturation())),
        }
    }

    pub fn settings(&self, case: &Case) -> Result<DecodeSettings, ExitError> {
        Ok(DecodeSettings {
            mode: self.mode(case)?,
            sampling: case.sampling.clone(),
            max_new_tokens: case.max_new_tokens,
            stop_tokens: case.stop_tokens.clone(),
            draft_tokens: case.draft_tokens.clone(),
            probes: Some(self.probes.clone()),
            logprobs: None,
        })
    }

    fn mode(&self, case: &Case) -> Result<Mode, ExitError> {
        Ok(match case.way {
            Way::Static(exit) => Mode::Static(exit),
            Way::Dynamic(rule) => Mode::Dynamic(DynamicExits {
                exits: self.exits.clone(),
                policy: self.policy(rule),
                head: case
                    .draft_tokens
                    .as_ref()
                    .map_or(ExitHead::Full, |_| ExitHead::Draft),
            }),
            Way::Draft(exit, length) => {
                let full = self.exits.last().depth();
                Mode::Speculative(Speculation::at(exit, full, length)?)
            }
            Way::Both(rule, length) => Mode::Speculative(Speculation {
                exits: self.exits.clone(),
                policy: self.policy(rule),
                length,
            }),
            Way::Auto => Mode::Auto(Tuner::new(self.exits.clone())),
        })
    }
}

fn random_probes<M: Observed>(
    laws: &DecodingLaws<M>,
    law: &'static str,
) -> Result<ExitProbes, LawBroken> {
    let token = laws.model.tokens(&[vec![0]]).map_err(failed(law))?;
    let state = laws.model.embed(&token).map_err(failed(law))?;
    let states = laws.model.read_states(&state).map_err(failed(law))?;
    let width = states.first().map_or(0, Vec::len);
    let mut rng = Random::new(1);
    let mut weight = || rng.uniform() as f32 - 0.5;
    let probe = |exit| ExitProbe {
        exit,
        bias: weight(),
        weights: (0..width).map(|_| weight()).collect(),
    };
    Ok(ExitProbes::new(laws.exits.iter().map(probe).collect()))
}

/// A value above the share `below` of `values`, midway between two of them.
fn between(mut values: Vec<f32>, below: f64) -> f64 {
    values.sort_by(f32::total_cmp);
    let index = (below * values.len() as f64) as usize;
    let at = |index: usize| f64::from(values.get(index).or(values.last()).copied().unwrap_or(0.0));
    let middle = (at(index.saturating_sub(1)) + at(index)) / 2.0;
    // Cosines may be negative, and rounding may move cosines and entropies out of their range.
    middle.max(-1.0)
}
