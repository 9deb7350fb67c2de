//! Speed of decoding modes, measured side by side.
//!
//! Every prompt is decoded in every mode, in a random order, so that a machine that slows down or
//! is shared affects all modes alike. The first prompt is decoded once more for warm-up. Tokens are
//! on the host when they are counted, so the queue of the device is empty whenever the clock is
//! read. Speedups are computed per prompt.

use serde::{Deserialize, Serialize};
use soft_core::decode::{DecodeError, Finish, OperationCosts, Statistics, Tuner};
use soft_core::{DecodeModel, DecodeSettings, Decoder, Mode, Prompt};

use crate::{Bootstrap, Interval, shuffle};

/// A decoding mode.
pub struct SpeedMode<'a> {
    /// Its name in tables.
    pub name: String,
    /// Makes the settings for each prompt.
    pub settings: Box<dyn Fn() -> DecodeSettings + 'a>,
}

/// The result of one mode on one prompt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpeedSample {
    /// Counts and times.
    pub statistics: Statistics,
    /// Tokens of the answer.
    pub answer: Vec<u32>,
    /// The depth of the exit of each token.
    pub depths: Vec<usize>,
    /// Whether the answer ended with a stop token.
    pub ended: bool,
}

/// Measures decoding in several modes.
pub struct SpeedMeter<'a, M> {
    model: &'a M,
    modes: &'a [SpeedMode<'a>],
    tuners: Vec<Option<Tuner>>,
    measured: usize,
}

impl<'a, M: DecodeModel> SpeedMeter<'a, M> {
    /// A meter without measurements.
    pub fn new(model: &'a M, modes: &'a [SpeedMode<'a>]) -> Self {
        Self {
            model,
            modes,
            tuners: modes.iter().map(|_| None).collect(),
            measured: 0,
        }
    }

    /// Decodes a prompt in every mode and returns one sample per mode. The first prompt is decoded
    /// twice, the first time for warm-up.
    ///
    /// # Errors
    /// Errors of the decoder.
    pub fn measure(&mut self, prompt: &Prompt) -> Result<Vec<SpeedSample>, DecodeError<M::Error>> {
        if self.measured == 0 {
            for mode in 0..self.modes.len() {
                self.decode(mode, prompt)?;
            }
        }
        let mut samples = vec![SpeedSample::default(); self.modes.len()];
        let mut order: Vec<usize> = (0..self.modes.len()).collect();
        shuffle(&mut order, self.measured as u64);
        for mode in order {
            samples[mode] = self.decode(mode, prompt)?;
        }
        self.measured += 1;
        Ok(samples)
    }

    fn decode(
        &mut self,
        mode: usize,
        prompt: &Prompt,
    ) -> Result<SpeedSample, DecodeError<M::Error>> {
        let mut settings = (self.modes[mode].settings)();
        // Automatic mode keeps what it measured on earlier prompts.
        if let (Mode::Auto(fresh), Some(learnt)) = (&mut settings.mode, self.tuners[mode].take()) {
            *fresh = learnt;
        }
        let mut decoder = Decoder::new(self.model, std::slice::from_ref(prompt), settings)?;
        let steps = decoder.by_ref().collect::<Result<Vec<_>, _>>()?;
        let sample = SpeedSample {
            statistics: decoder.statistics().clone(),
            answer: steps.iter().map(|step| step.token).collect(),
            depths: steps.iter().map(|step| step.exit.depth()).collect(),
            ended: decoder.finish(0) == Some(Finish::StopToken),
        };
        self.tuners[mode] = decoder.into_tuner();
        Ok(sample)
    }
}

impl SpeedSample {
    /// Seconds per token or stop token, without the first, which the pass over the prompt
    /// generates. `None` if there is no other.
    fn per_token(&self) -> Option<f64> {
        let time = self.statistics.draft + self.statistics.full;
        match self.statistics.generated {
            0 => None,
            named => Some(time.as_secs_f64() / named as f64),
        }
    }
}

/// The figures of one mode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpeedFigures {
    /// The mode's name.
    pub mode: String,
    /// Number of tokens of all answers.
    pub tokens: u64,
    /// Tokens per second without the passes over the prompts; 0 if these generated all tokens.
    pub tokens_per_second: f64,
    /// Milliseconds per token, median over prompts.
    pub ms_per_token: f64,
    /// First and third quartile of the milliseconds per token.
    pub ms_quartiles: [f64; 2],
    /// Time per token of the first mode over that of this one: median over prompts, with its
    /// interval. `None` if no prompt has a time per token in both.
    pub speedup: Option<Interval>,
    /// Mean depth of the exits of the tokens.
    pub mean_depth: f64,
    /// Accepted share of the verified drafts; `None` without drafts.
    pub acceptance: Option<f64>,
    /// Share of answers equal to those of the first mode.
    pub same_answers: f64,
    /// Share of the first mode's tokens before the first difference of each answer.
    pub same_beginning: f64,
    /// GFLOP per token, heads included.
    pub giga_flops: f64,
    /// Blocks applied per token.
    pub blocks: f64,
    /// Loads of block weights per token.
    pub block_readings: f64,
    /// Full heads applied per token.
    pub heads: f64,
    /// Draft heads applied per token.
    pub draft_heads: f64,
    /// Number of tokens by the depth of their exit.
    pub by_depth: Vec<(usize, u64)>,
    /// Seconds in rounds in which no token reached the full depth.
    pub draft_seconds: f64,
    /// Seconds in the other rounds.
    pub full_seconds: f64,
    /// Seconds in the passes over the prompts.
    pub prefill_seconds: f64,
}

/// Figures of every mode, relative to the first. `prompts` has the samples of every mode for each
/// prompt.
pub fn speed_figures(
    modes: &[String],
    prompts: &[Vec<SpeedSample>],
    costs: &OperationCosts,
) -> Vec<SpeedFigures> {
    let of_mode = |mode: usize| -> Vec<&SpeedSample> {
        prompts
            .iter()
            .filter_map(|samples| samples.get(mode))
            .collect()
    };
    let plain = of_mode(0);
    let numbered = modes.iter().enumerate();
    let figures = numbered.map(|(mode, name)| figures(name, &of_mode(mode), &plain, costs));
    figures.collect()
}

fn figures(
    name: &str,
    samples: &[&SpeedSample],
    plain: &[&SpeedSample],
    costs: &OperationCosts,
) -> SpeedFigures {
    let mut s = Statistics::default();
    samples.iter().for_each(|sample| s.add(&sample.statistics));
    let pairs = || samples.iter().zip(plain);
    let ratios: Vec<f64> = pairs()
        .filter_map(|(ours, theirs)| Some(theirs.per_token()? / ours.per_token()?))
        .collect();
    let speedup = Bootstrap::default().interval(ratios.len(), |sample| {
        quantile(sample.map(|index| ratios[index]).collect(), 0.5)
    });
    let times = samples.iter().filter_map(|sample| sample.per_token());
    let times: Vec<f64> = times.map(|seconds| 1000.0 * seconds).collect();
    let at = |share| quantile(times.clone(), share);
    let same = pairs().filter(|(a, b)| a.answer == b.answer).count();
    let common = |(a, b): (&&SpeedSample, &&SpeedSample)| {
        let tokens = a.answer.iter().zip(&b.answer);
        tokens.take_while(|(a, b)| a == b).count()
    };
    let agreeing: usize = pairs().map(common).sum();
    let all: usize = plain.iter().map(|sample| sample.answer.len()).sum();
    SpeedFigures {
        mode: name.to_owned(),
        tokens: s.tokens(),
        tokens_per_second: match s.generated {
            0 => 0.0,
            _ => 1.0 / s.time_per_token().as_secs_f64().max(1e-12),
        },
        ms_per_token: at(0.5),
        ms_quartiles: [at(0.25), at(0.75)],
        speedup,
        mean_depth: if s.tokens() == 0 { 0.0 } else { s.mean_depth() },
        acceptance: (s.checked > 0).then(|| s.acceptance_rate()),
        same_answers: same as f64 / samples.len().max(1) as f64,
        same_beginning: agreeing as f64 / all.max(1) as f64,
        giga_flops: costs.per_token(&s) / 1e9,
        blocks: s.blocks_per_token(),
        block_readings: s.weight_loads_per_token(),
        heads: s.heads_per_token(),
        draft_heads: s.draft_heads_per_token(),
        by_depth: s.tokens_by_depth.iter().map(|(d, t)| (*d, *t)).collect(),
        draft_seconds: s.draft.as_secs_f64(),
        full_seconds: s.full.as_secs_f64(),
        prefill_seconds: s.prefill.as_secs_f64(),
    }
}

/// The quantile at `share`, interpolated between the nearest two values; 0 without values.
fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else {
        return 0.0;
    };
    let place = share * last as f64;
    let below = (place as usize).min(last);
    let above = (below + 1).min(last);
    values[below] + (place - below as f64) * (values[above] - values[below])
}

#[cfg(test)]
mod tests {
    use super::*;
    use soft_core::Exit;
    use soft_core::decode::{DraftLength, Speculation};
    use soft_core::toy::ToyModel;

    fn modes() -> Vec<SpeedMode<'static>> {
        let mode = |name: &str, settings: fn() -> Mode| SpeedMode {
            name: name.to_owned(),
            settings: Box::new(move || DecodeSettings::greedy(settings(), 12)),
        };
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
        let modes = modes();
        let mut meter = SpeedMeter::new(&model, &modes);
        let samples = prompts.iter().map(|prompt| meter.measure(prompt).unwrap());
        let samples: Vec<_> = samples.collect();
        let names: Vec<_> = modes.iter().map(|mode| mode.name.clone()).collect();
        let costs = OperationCosts {
            block: 1e9,
            appended: 0.0,
            attended: 0.0,
            head: 0.0,
            draft_head: 0.0,
        };
        let found = speed_figures(&names, &samples, &costs);
        assert_eq!((found[0].tokens, found[0].same_beginning), (60, 1.0));
        assert_eq!((found[2].same_beginning, found[2].same_answers), (1.0, 1.0));
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
        assert_eq!(quantile(values.clone(), 0.5), 2.5);
        assert_eq!(quantile(values.clone(), 0.25), 1.75);
        assert_eq!(quantile(values, 1.0), 4.0);
        assert_eq!(quantile(vec![], 0.5), 0.0);
    }
}
