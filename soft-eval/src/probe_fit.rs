//! Fits exit probes: a logistic regression per exit, from states of traced texts.
//!
//! The label of a state is whether the exit's token is the full model's. Features are standardized
//! for the fit, so that the penalty on squared weights treats them alike. Its strength is chosen by
//! the log loss on texts left out, a part of those given; the final fit is on all of them. The loss
//! is convex; it is minimized by L-BFGS (Nocedal 1980) of the argmin library.

use argmin::core::{CostFunction, Error, Executor, Gradient, State};
use argmin::solver::linesearch::MoreThuenteLineSearch;
use argmin::solver::quasinewton::LBFGS;
use soft_core::policy::{ExitProbe, ExitProbes, probe_features};
use soft_core::{Exit, Exits};

use crate::{EvalError, TracedStates};

/// Penalties on half the squared weights of standardized features, per state.
const PENALTIES: [f64; 4] = [0.001, 0.01, 0.1, 1.0];
/// One text of this many is left out to choose the penalty.
const LEFT_OUT: usize = 4;
const ITERATIONS: u64 = 200;
/// Gradient norm at which the fit ends.
const TOLERANCE: f64 = 1e-4;
/// Corrections that L-BFGS keeps.
const MEMORY: usize = 10;

/// Fits a probe to each early exit on traced texts. Texts to calibrate or test rules on must be
/// others.
///
/// # Errors
/// Fewer texts with tokens than are needed to choose the penalty.
pub fn fit_probes(exits: &Exits, texts: &[TracedStates]) -> Result<ExitProbes, EvalError> {
    let texts: Vec<_> = texts
        .iter()
        .filter(|text| !text.tokens.is_empty())
        .collect();
    if texts.len() < LEFT_OUT {
        return Err(EvalError::Setting {
            setting: "texts to fit probes on",
            expected: "at least four that have tokens",
            found: texts.len().to_string(),
        });
    }
    let early = exits.iter().take(exits.len() - 1).enumerate();
    let probes = early.map(|(index, exit)| fit(exit, index, &texts));
    Ok(ExitProbes::new(probes.collect::<Result<_, _>>()?))
}

fn fit(exit: Exit, index: usize, texts: &[&TracedStates]) -> Result<ExitProbe, EvalError> {
    let left_out = |&(text, _): &(usize, _)| text % LEFT_OUT == 0;
    let samples = |wanted: bool| {
        let texts = texts.iter().enumerate().filter(|it| left_out(it) == wanted);
        Samples::of(texts.map(|(_, text)| *text), index)
    };
    let (fitted, other) = (samples(false), samples(true));
    let all = Samples::of(texts.iter().copied(), index);
    if let Some(constant) = all.constant(exit) {
        return Ok(constant);
    }
    let scale = Scale::of(&all);
    let (fitted, other, all) = (scale.of_all(fitted), scale.of_all(other), scale.of_all(all));
    let mut best = (f64::INFINITY, PENALTIES[0]);
    for penalty in PENALTIES {
        let found = minimum(&fitted, penalty)?;
        let loss = other.loss(&found);
        if loss < best.0 {
            best = (loss, penalty);
        }
    }
    Ok(scale.probe(exit, &minimum(&all, best.1)?))
}

/// States with their labels.
struct Samples {
    features: Vec<Vec<f32>>,
    agrees: Vec<bool>,
}

impl Samples {
    fn of<'a>(texts: impl Iterator<Item = &'a TracedStates>, exit: usize) -> Self {
        let (mut features, mut agrees) = (Vec::new(), Vec::new());
        for text in texts {
            features.extend(text.states[exit].iter().map(|state| probe_features(state)));
            let agreeing = |token: &crate::TokenTrace| token.early[exit].score.token == token.full;
            agrees.extend(text.tokens.iter().map(agreeing));
        }
        Self { features, agrees }
    }

    /// A constant probe where the exit's token agrees everywhere or nowhere.
    fn constant(&self, exit: Exit) -> Option<ExitProbe> {
        let agreeing = self.agrees.iter().filter(|agrees| **agrees).count();
        (agreeing == 0 || agreeing == self.agrees.len()).then(|| {
            // Half a token of each kind is added, so that the logit is finite.
            let odds = (agreeing as f64 + 0.5) / ((self.agrees.len() - agreeing) as f64 + 0.5);
            ExitProbe {
                exit,
                bias: odds.ln() as f32,
                weights: vec![0.0; self.width()],
            }
        })
    }

    fn width(&self) -> usize {
        self.features.first().map_or(0, Vec::len)
    }

    /// The mean log loss. `parameters` are the bias and the weights.
    fn loss(&self, parameters: &[f64]) -> f64 {
        let samples = self.features.iter().zip(&self.agrees);
        let sum: f64 = samples
            .map(|(features, &agrees)| {
                let logit = logit(parameters, features);
                softplus(if agrees { -logit } else { logit })
            })
            .sum();
        sum / self.agrees.len().max(1) as f64
    }
}

fn logit(parameters: &[f64], features: &[f32]) -> f64 {
    let products = parameters[1..].iter().zip(features);
    parameters[0] + products.map(|(w, &x)| w * f64::from(x)).sum::<f64>()
}

/// ln(1 + eˣ), without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Mean and standard deviation of every feature.
struct Scale {
    mean: Vec<f64>,
    deviation: Vec<f64>,
}

impl Scale {
    fn of(samples: &Samples) -> Self {
        let count = samples.features.len() as f64;
        let (mut mean, mut square) = (vec![0.0; samples.width()], vec![0.0; samples.width()]);
        for features in &samples.features {
            for ((mean, square), &x) in mean.iter_mut().zip(&mut square).zip(features) {
                *mean += f64::from(x) / count;
                *square += f64::from(x).powi(2) / count;
            }
        }
        let deviation = mean.iter().zip(&square).map(|(mean, square)| {
            let deviation = (square - mean * mean).max(0.0).sqrt();
            // A constant feature says nothing.
            if deviation > 1e-9 { deviation } else { 1.0 }
        });
        Self {
            deviation: deviation.collect(),
            mean,
        }
    }

    fn of_all(&self, mut samples: Samples) -> Samples {
        for features in &mut samples.features {
            let scales = self.mean.iter().zip(&self.deviation);
            for (x, (mean, deviation)) in features.iter_mut().zip(scales) {
                *x = ((f64::from(*x) - mean) / deviation) as f32;
            }
        }
        samples
    }

    /// The probe on features that are not standardized.
    fn probe(&self, exit: Exit, parameters: &[f64]) -> ExitProbe {
        let weights = parameters[1..].iter().zip(&self.deviation);
        let weights: Vec<f64> = weights.map(|(w, deviation)| w / deviation).collect();
        let shift: f64 = weights
            .iter()
            .zip(&self.mean)
            .map(|(w, mean)| w * mean)
            .sum();
        ExitProbe {
            exit,
            bias: (parameters[0] - shift) as f32,
            weights: weights.iter().map(|&weight| weight as f32).collect(),
        }
    }
}

/// The mean log loss with the penalty. The bias is not penalized.
struct Penalized<'a> {
    samples: &'a Samples,
    penalty: f64,
}

impl CostFunction for Penalized<'_> {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, parameters: &Vec<f64>) -> Result<f64, Error> {
        let squares: f64 = parameters[1..].iter().map(|w| w * w).sum();
        Ok(self.samples.loss(parameters) + 0.5 * self.penalty * squares)
    }
}

impl Gradient for Penalized<'_> {
    type Param = Vec<f64>;
    type Gradient = Vec<f64>;

    fn gradient(&self, parameters: &Vec<f64>) -> Result<Vec<f64>, Error> {
        let weights = parameters[1..].iter().map(|w| self.penalty * w);
        let mut gradient: Vec<f64> = std::iter::once(0.0).chain(weights).collect();
        let count = self.samples.agrees.len() as f64;
        for (features, &agrees) in self.samples.features.iter().zip(&self.samples.agrees) {
            let probability = 1.0 / (1.0 + (-logit(parameters, features)).exp());
            let residual = (probability - f64::from(u8::from(agrees))) / count;
            gradient[0] += residual;
            for (gradient, &x) in gradient[1..].iter_mut().zip(features) {
                *gradient += residual * f64::from(x);
            }
        }
        Ok(gradient)
    }
}

fn minimum(samples: &Samples, penalty: f64) -> Result<Vec<f64>, EvalError> {
    let failed = |found: String| EvalError::Setting {
        setting: "fit of a probe",
        expected: "a minimum of its loss",
        found,
    };
    let solver = LBFGS::new(MoreThuenteLineSearch::new(), MEMORY)
        .with_tolerance_grad(TOLERANCE)
        .map_err(|error| failed(error.to_string()))?;
    let start = vec![0.0; samples.width() + 1];
    let result = Executor::new(Penalized { samples, penalty }, solver)
        .configure(|state| state.param(start).max_iters(ITERATIONS))
        .run()
        .map_err(|error| failed(error.to_string()))?;
    let best = result.state().get_best_param().cloned();
    best.ok_or_else(|| failed("none".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EarlyTrace, TokenTrace};
    use soft_core::model::Score;
    use soft_core::random::Random;

    /// Texts of one early exit whose token agrees with the probability of a logistic model.
    fn texts(rng: &mut Random, number: usize, truth: &[f64]) -> Vec<TracedStates> {
        let one = |_| {
            let mut text = TracedStates {
                tokens: Vec::new(),
                states: vec![Vec::new()],
            };
            for _ in 0..20 {
                let state: Vec<f32> = (1..truth.len())
                    .map(|_| 10.0 * (rng.uniform() as f32 - 0.5))
                    .collect();
                let chance = 1.0 / (1.0 + (-logit(truth, &probe_features(&state))).exp());
                let score = Score {
                    token: u32::from(rng.uniform() < chance),
                    probability: 0.5,
                    second: 0.5,
                    entropy: 0.0,
                };
                let early = vec![EarlyTrace {
                    score,
                    similarity: 0.0,
                    probe: None,
                }];
                text.tokens.push(TokenTrace { early, full: 1 });
                text.states[0].push(state);
            }
            text
        };
        (0..number).map(one).collect()
    }

    #[test]
    fn a_probe_finds_the_model_that_made_the_labels() {
        let truth = [0.4, 1.5, -1.0, 0.0, 0.5];
        let mut rng = Random::new(3);
        let exits = Exits::new([2, 4]).unwrap();
        let probes = fit_probes(&exits, &texts(&mut rng, 400, &truth)).unwrap();
        let probe = probes.at(Exit::new(2).unwrap()).unwrap();
        assert!((f64::from(probe.bias) - truth[0]).abs() < 0.1, "{probe:?}");
        for (found, expected) in probe.weights.iter().zip(&truth[1..]) {
            assert!((f64::from(*found) - expected).abs() < 0.15, "{probe:?}");
        }
    }

    /// With more weights than the data can determine, the penalty keeps the probe calibrated.
    #[test]
    fn a_probe_of_many_features_is_not_worse_than_the_base_rate() {
        let mut truth = vec![0.0; 301];
        truth[..3].copy_from_slice(&[0.4, 1.0, -1.0]);
        let mut rng = Random::new(4);
        let exits = Exits::new([2, 4]).unwrap();
        let probes = fit_probes(&exits, &texts(&mut rng, 40, &truth)).unwrap();
        let probe = probes.at(Exit::new(2).unwrap()).unwrap();
        let fresh = Samples::of(texts(&mut rng, 100, &truth).iter(), 0);
        let weights = probe.weights.iter().map(|&w| f64::from(w));
        let parameters: Vec<f64> = std::iter::once(f64::from(probe.bias))
            .chain(weights)
            .collect();
        let share = fresh.agrees.iter().filter(|agrees| **agrees).count() as f64;
        let share = share / fresh.agrees.len() as f64;
        let base = -(share * share.ln() + (1.0 - share) * (1.0 - share).ln());
        let found = fresh.loss(&parameters);
        assert!(found < base, "{found} against {base}");
    }

    #[test]
    fn the_gradient_is_that_of_the_loss() {
        let mut rng = Random::new(5);
        let samples = Samples::of(texts(&mut rng, 5, &[0.0, 1.0, 2.0]).iter(), 0);
        let penalized = Penalized {
            samples: &samples,
            penalty: 0.3,
        };
        let at = vec![0.2, -0.4, 0.7];
        let gradient = penalized.gradient(&at).unwrap();
        for (index, expected) in gradient.iter().enumerate() {
            let moved = |by: f64| {
                let mut moved = at.clone();
                moved[index] += by;
                penalized.cost(&moved).unwrap()
            };
            let found = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!(
                (found - expected).abs() < 1e-8,
                "{index}: {found} {expected}"
            );
        }
    }

    #[test]
    fn a_token_that_always_agrees_needs_no_features() {
        let mut rng = Random::new(6);
        let exits = Exits::new([2, 4]).unwrap();
        let certain = texts(&mut rng, 8, &[100.0, 0.0, 0.0]);
        let probes = fit_probes(&exits, &certain).unwrap();
        let probe = probes.at(Exit::new(2).unwrap()).unwrap();
        assert_eq!(probe.weights, [0.0; 2]);
        assert!((f64::from(probe.probability(&[1.0, 2.0])) - 160.5 / 161.0).abs() < 1e-6);
        assert!(fit_probes(&exits, &certain[..3]).is_err());
    }
}
