//! A check that a device computes what it should: the losses and the gradient of one row, beside
//! those of the CPU.
//!
//! A wrong kernel does not have to fail. A fused product picked by autotuning, for one, was
//! reported to corrupt weights hundreds of steps later (tracel-ai/burn#5352).

use burn::module::Module;
use burn::tensor::Device;

use crate::device::device;
use crate::device_errors::failed;
use crate::dtype::{DType, to_f32};
use crate::error::Error;
use crate::model::llama::Llama;
use crate::model::parameters::map_parameters;
use crate::train::accumulation::{Accumulated, ExitTotal, Job, accumulate};
use crate::train::replicas::Replicas;
use crate::train::settings::TrainSettings;

/// Largest relative differences of losses and of gradients. In f32 a device may round the factors
/// of products to TF32; bf16 has 8 bits, through all blocks.
fn tolerances(dtype: DType) -> (f64, f64) {
    match dtype {
        DType::F32 => (0.01, 0.05),
        DType::Bf16 | DType::F16 => (0.05, 0.3),
    }
}

/// When the device is compared.
#[derive(Debug)]
pub(crate) struct Canary {
    every: u64,
    begun: bool,
}

impl Canary {
    /// Before the first step, and before every step divisible by `every`.
    pub fn new(every: u64) -> Self {
        let begun = false;
        Self { every, begun }
    }

    /// Compares the first of `jobs` if this step is due.
    ///
    /// # Errors
    /// As [`check`].
    pub fn watch(
        &mut self,
        replicas: &Replicas,
        jobs: &[Job],
        settings: &TrainSettings,
    ) -> Result<(), Error> {
        let due = |job: &Job| !self.begun || job.at.step.is_multiple_of(self.every);
        if let Some(job) = jobs.first().filter(|job| due(job)) {
            for model in replicas.models() {
                check(model, job, settings)?;
            }
            self.begun = true;
        }
        Ok(())
    }
}

/// Compares the first supervised row of `job` on the model's device with the CPU, in f32 there.
///
/// # Errors
/// [`Error::WrongResults`] when they differ; as `accumulate`.
fn check(model: &Llama, job: &Job, settings: &TrainSettings) -> Result<(), Error> {
    let Some(row) = job.batch.targets().first().map(|target| target.row) else {
        return Ok(());
    };
    let batch = job.batch.row(row);
    let job = [Job {
        at: job.at,
        batch: &batch,
        weights: job.weights.clone(),
    }];
    let normalizer = batch.supervised_tokens() as f64;
    let run = |model: &Llama| {
        let alone = Replicas::alone(model.clone());
        accumulate(&alone, &job, settings, normalizer)
    };
    let found = run(model);
    let cpu = device("cpu")?;
    let reference = map_parameters(model.clone().fork(&cpu), |_, _, values| to_f32(values));
    let expected = match run(&reference) {
        Ok(expected) => expected,
        // Not the device's fault: the step will report it.
        Err(Error::LossNotFinite { .. }) => return Ok(()),
        Err(other) => return Err(other),
    };
    let comparison = Comparison {
        step: job[0].at.step,
        normalizer,
        tolerances: tolerances(settings.dtype),
    };
    match found {
        Ok(found) => comparison.run(found, expected, &cpu),
        Err(Error::LossNotFinite { exit, value, .. }) => {
            let loss = expected.losses.iter().find(|(at, _)| at.depth() == exit);
            let expected = loss.map_or(f64::NAN, |(_, total)| total.nats / normalizer);
            Err(comparison.wrong(format!("the loss at exit {exit}"), value, expected))
        }
        Err(other) => Err(other),
    }
}

/// Differences that are rounding whatever they are compared with.
const FLOOR: f64 = 1e-6;

/// Compares sums of a device with those of the CPU.
struct Comparison {
    step: u64,
    /// Number of targets.
    normalizer: f64,
    /// Of losses and of gradients.
    tolerances: (f64, f64),
}

impl Comparison {
    fn run(&self, found: Accumulated, expected: Accumulated, cpu: &Device) -> Result<(), Error> {
        let (of_losses, of_gradients) = self.tolerances;
        for ((exit, found), (_, expected)) in found.losses.iter().zip(&expected.losses) {
            let mean = |total: &ExitTotal| total.nats / self.normalizer;
            let (found, expected) = (mean(found), mean(expected));
            if (found - expected).abs() > of_losses * expected + FLOOR {
                return Err(self.wrong(format!("the loss at exit {exit}"), found, expected));
            }
        }
        let Ok(norms) = expected.gradient_norms() else {
            return Ok(());
        };
        let norm = norms.total();
        // Both are of one device.
        let distances = found.gradients.into_iter().zip(expected.gradients);
        let distances = distances.map(|(found, expected)| found.distance(expected, cpu));
        let distance = distances.sum::<Result<f64, _>>();
        let distance = distance.map_err(|source| failed(cpu, &source.to_string()))?;
        // NaN is not near.
        let near = distance <= of_gradients * norm + FLOOR;
        if near {
            return Ok(());
        }
        let what = format!("the distance of the gradient from the CPU's, whose norm is {norm},");
        Err(self.wrong(what, distance, 0.0))
    }

    fn wrong(&self, what: String, found: f64, expected: f64) -> Error {
        Error::WrongResults {
            step: self.step,
            what,
            found,
            expected,
            checkpoint: None,
        }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    #![allow(clippy::unwrap_used)] // tests fail by panicking

    use soft_core::{Batch, BatchStream, Example, StreamPosition};

    use super::*;
    use crate::ops::linear::damage::damage_next_products;
    use crate::train::method::Method;
    use crate::train::trainer::Trainer;

    struct Rows;

    impl BatchStream for Rows {
        type Error = std::convert::Infallible;

        fn next_batch(&mut self) -> Result<Batch, Self::Error> {
            let rows = [3, 5].map(|row| Example::text((1..6).map(|at| at * row % 11).collect()));
            Ok(Batch::from_examples(&[&rows[0], &rows[1]]).unwrap())
        }

        fn position(&self) -> StreamPosition {
            StreamPosition::default()
        }

        fn seek(&mut self, _position: StreamPosition) -> Result<(), Self::Error> {
            Ok(())
        }
    }

    fn trainer(dtype: DType) -> Trainer {
        let config = crate::tests::laws::config(2, 2, true);
        let model = Llama::random(config, 7, &device("cpu").unwrap()).unwrap();
        let mut settings = TrainSettings::new(Method::soft(), "1,2".parse().unwrap(), 100);
        settings.dtype = dtype;
        Trainer::new(model, settings).unwrap().with_canary(3)
    }

    #[test]
    fn a_device_that_computes_is_left_alone() {
        for dtype in [DType::F32, DType::Bf16] {
            let mut trainer = trainer(dtype);
            for _ in 0..4 {
                trainer.step(&mut Rows).unwrap();
            }
        }
    }

    /// One wrong product, at the start and later: the step is not taken.
    #[test]
    fn a_wrong_kernel_is_caught() {
        let mut trainer = trainer(DType::F32);
        for steps_done in [0, 2] {
            while trainer.steps_done() < steps_done {
                trainer.step(&mut Rows).unwrap();
            }
            damage_next_products(1);
            let error = trainer.step(&mut Rows).unwrap_err();
            assert!(matches!(error, Error::WrongResults { .. }), "{error}");
            assert_eq!(trainer.steps_done(), steps_done);
        }
    }
}
