//! How fast each way of decoding is, measured side by side.
//!
//! Every prompt is decoded in every mode, in turns and in changing order, so that a machine that slows down or is shared slows all modes alike; one
//! prompt per mode goes before, unmeasured. A token is on the host when it is counted, so that a device's queue is empty at every reading of the clock. Ratios are
//! taken prompt by prompt. Knows any model that decodes.

use serde::{Deserialize, Serialize};
use soft_core::{
    DecodeError, DecodeModel, DecodeSettings, Decoder, Mode, OperationCosts, Prompt, Statistics,
    Tuner,
};

use crate::{Bootstrap, Interval};

/// A way of decoding.
pub struct SpeedMode<'a> {
    /// Its name in tables.
    pub name: String,
    /// Settings for each prompt anew.
    pub settings: Box<dyn Fn() -> DecodeSettings + 'a>,
}

/// What a mode made of all prompts.
#[derive(Clone, Debug, Default)]
pub struct SpeedRun {
    /// The mode's name.
    pub name: String,
    /// Counts and times of all prompts.
    pub statistics: Statistics,
    /// Time of each prompt's answer in seconds, the prompt's own pass not counted.
    pub seconds: Vec<f64>,
    /// The answers.
    pub answers: Vec<Vec<u32>>,
    /// The depth that named each of their tokens.
    pub depths: Vec<Vec<usize>>,
}

/// Decodes all prompts in all modes. `progress` is called after each prompt.
///
/// # Errors
/// As the decoder's.
pub fn measure_speed<M: DecodeModel>(
    model: &M,
    prompts: &[Prompt],
    modes: &[SpeedMode],
    mut progress: impl FnMut(),
) -> Result<Vec<SpeedRun>, DecodeError<M::Error>> {
    let run = |mode: &SpeedMode| SpeedRun {
        name: mode.name.clone(),
        ..SpeedRun::default()
    };
    let mut runs: Vec<SpeedRun> = modes.iter().map(run).collect();
    let mut tuners: Vec<Option<Tuner>> = modes.iter().map(|_| None).collect();
    if let Some(prompt) = prompts.first() {
        for mode in modes {
            Decoder::new(model, std::slice::from_ref(prompt), (mode.settings)())?.run()?;
        }
    }
    for (index, prompt) in prompts.iter().enumerate() {
        for turn in 0..modes.len() {
            let mode = (index + turn) % modes.len();
            let mut settings = (modes[mode].settings)();
            // Automatic mode goes on with what it learnt from earlier prompts.
            if let (Mode::Auto(fresh), Some(learnt)) = (&mut settings.mode, tuners[mode].take()) {
                *fresh = learnt;
            }
            let mut decoder = Decoder::new(model, std::slice::from_ref(prompt), settings)?;
            let steps = decoder.by_ref().collect::<Result<Vec<_>, _>>()?;
            runs[mode].add(&steps, decoder.statistics());
            tuners[mode] = decoder.into_tuner();
        }
        progress();
    }
    Ok(runs)
}

impl SpeedRun {
    fn add(&mut self, steps: &[soft_core::Step], statistics: &Statistics) {
        let time = statistics.draft + statistics.full;
        self.seconds.push(time.as_secs_f64());
        self.answers
            .push(steps.iter().map(|step| step.token).collect());
        self.depths
            .push(steps.iter().map(|step| step.exit.depth()).collect());
        self.statistics.add(statistics);
    }

    /// Seconds per token of each answer of more than one token: the prompt's pass gives the first.
    fn per_token(&self) -> Vec<Option<f64>> {
        let pairs = self.seconds.iter().zip(&self.answers);
        let of = |(seconds, answer): (&f64, &Vec<u32>)| match answer.len() {
            0 | 1 => None,
            tokens => Some(seconds / (tokens - 1) as f64),
        };
        pairs.map(of).collect()
    }
}

/// The figures of one mode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpeedFigures {
    /// The mode's name.
    pub mode: String,
    /// Tokens of all answers.
    pub tokens: u64,
    /// Tokens per second over everything but the prompts' passes.
    pub tokens_per_second: f64,
    /// Milliseconds per token: the median over prompts.
    pub ms_per_token: f64,
    /// First and third quartile of the same.
    pub ms_quartiles: [f64; 2],
    /// Time per token of the first mode over that of this one: median over prompts, with its interval. None when no prompt has two tokens in both.
    pub speedup: Option<Interval>,
    /// Mean depth of the exits that named the tokens.
    pub mean_depth: f64,
    /// Accepted share of checked drafts; none where nothing is drafted.
    pub acceptance: Option<f64>,
    /// Share of answers equal to the first mode's.
    pub same_answers: f64,
    /// Share of the first mode's tokens up to the first that differs.
    pub agreement: f64,
    /// Floating-point operations per token in units of 10⁹, heads included.
    pub giga_flops: f64,
    /// Blocks applied per token.
    pub blocks: f64,
    /// Full heads applied per token.
    pub heads: f64,
    /// Draft heads applied per token.
    pub draft_heads: f64,
    /// Tokens by the depth that named them.
    pub by_depth: Vec<(usize, u64)>,
    /// Seconds for all prompts' passes.
    pub prefill_seconds: f64,
}

/// Figures of every mode, beside the first one.
pub fn speed_figures(runs: &[SpeedRun], costs: &OperationCosts) -> Vec<SpeedFigures> {
    let Some(plain) = runs.first() else {
        return Vec::new();
    };
    runs.iter().map(|run| figures(run, plain, costs)).collect()
}

fn figures(run: &SpeedRun, plain: &SpeedRun, costs: &OperationCosts) -> SpeedFigures {
    let s = &run.statistics;
    let (ours, theirs) = (run.per_token(), plain.per_token());
    let ratios: Vec<f64> = ours
        .iter()
        .zip(&theirs)
        .filter_map(|(ours, theirs)| Some((*theirs)? / (*ours)?))
        .collect();
    let speedup = Bootstrap::default().interval(ratios.len(), |sample| {
        quantile(sample.map(|index| ratios[index]).collect(), 0.5)
    });
    let times: Vec<f64> = ours.into_iter().flatten().map(|s| 1000.0 * s).collect();
    let at = |share| quantile(times.clone(), share);
    let pairs = || run.answers.iter().zip(&plain.answers);
    let same = pairs().filter(|(a, b)| a == b).count();
    let agreeing: usize = pairs()
        .map(|(a, b)| a.iter().zip(b).take_while(|(a, b)| a == b).count())
        .sum();
    let all: usize = plain.answers.iter().map(Vec::len).sum();
    SpeedFigures {
        mode: run.name.clone(),
        tokens: s.tokens(),
        tokens_per_second: 1.0 / s.time_per_token().as_secs_f64().max(1e-12),
        ms_per_token: at(0.5),
        ms_quartiles: [at(0.25), at(0.75)],
        speedup,
        mean_depth: if s.tokens() == 0 { 0.0 } else { s.mean_depth() },
        acceptance: (s.checked > 0).then(|| s.acceptance_rate()),
        same_answers: same as f64 / run.answers.len().max(1) as f64,
        agreement: agreeing as f64 / all.max(1) as f64,
        giga_flops: costs.per_token(s) / 1e9,
        blocks: s.blocks_per_token(),
        heads: s.heads_per_token(),
        draft_heads: s.draft_heads_per_token(),
        by_depth: s.tokens_by_depth.iter().map(|(d, t)| (*d, *t)).collect(),
        prefill_seconds: s.prefill.as_secs_f64(),
    }
}

/// The value below which a share of `values` lies; 0 without values.
fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let index = (share * values.len() as f64) as usize;
    values
        .get(index.min(values.len().saturating_sub(1)))
        .copied()
        .unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use soft_core::toy::ToyModel;
    use soft_core::{DraftLength, Exit, Speculation};

    fn modes() -> Vec<SpeedMode<'static>> {
        let full = Exit::new(4).unwrap();
        let mode = |name: &str, settings: fn() -> Mode| SpeedMode {
            name: name.to_owned(),
            settings: Box::new(move || DecodeSettings::greedy(settings(), 12)),
        };
        assert_eq!(full.depth(), 4);
        vec![
            mode("full", || Mode::Static(Exit::new(4).unwrap())),
            mode("exit=1", || Mode::Static(Exit::new(1).unwrap())),
            mode("speculative=2", || {
                let length = DraftLength::Fixed(3);
                Mode::Speculative(Speculation::at(Exit::new(2).unwrap(), 4, length).unwrap())
            }),
        ]
    }

    #[test]
    fn modes_are_compared_answer_by_answer() {
        let model = ToyModel::new(4, 6, 12, 3).restless();
        let prompts: Vec<_> = (0..5).map(|i| Prompt::from(vec![i, 2 * i + 1])).collect();
        let runs = measure_speed(&model, &prompts, &modes(), || ()).unwrap();
        let costs = OperationCosts {
            block: 1e9,
            attended: 0.0,
            head: 0.0,
            draft_head: 0.0,
        };
        let found = speed_figures(&runs, &costs);
        assert_eq!((found[0].tokens, found[0].agreement), (60, 1.0));
        assert_eq!((found[2].agreement, found[2].same_answers), (1.0, 1.0));
        assert!(found[1].same_answers < 1.0);
        assert_eq!((found[0].mean_depth, found[1].mean_depth), (4.0, 1.0));
        assert_eq!((found[0].giga_flops, found[1].giga_flops), (4.0, 1.0));
        assert!(found[2].acceptance.is_some() && found[0].acceptance.is_none());
        let speedup = found[0].speedup.unwrap();
        assert_eq!((speedup.low, speedup.high), (1.0, 1.0));
        let named: u64 = found[2].by_depth.iter().map(|(_, tokens)| tokens).sum();
        assert_eq!(named, found[2].tokens);
    }

    #[test]
    fn quantiles_by_hand() {
        let values = vec![4.0, 1.0, 3.0, 2.0];
        assert_eq!(quantile(values.clone(), 0.5), 3.0);
        assert_eq!(quantile(values.clone(), 0.25), 2.0);
        assert_eq!(quantile(values, 1.0), 4.0);
        assert_eq!(quantile(vec![], 0.5), 0.0);
    }
}
