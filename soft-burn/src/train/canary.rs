//! A check that a device computes what it should: the losses and the gradient norm of one row,
//! beside those of the CPU.
//!
//! A wrong kernel does not have to fail. A fused product picked by autotuning, for one, was reported
//! to corrupt weights hundreds of steps later (tracel-ai/burn#5352).

use burn::module::Module;
use soft_core::MicroBatch;

use crate::device::device;
use crate::dtype::{DType, to_f32};
use crate::error::Error;
use crate::model::llama::Llama;
use crate::model::parameters::map_parameters;
use crate::train::accumulation::{Accumulated, Job, accumulate};
use crate::train::settings::TrainSettings;

/// Largest relative difference. In f32 a device may round the factors of products to TF32; bf16 has
/// 8 bits, through all blocks.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 0.01,
        DType::Bf16 | DType::F16 => 0.05,
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
        model: &Llama,
        jobs: &[Job],
        settings: &TrainSettings,
    ) -> Result<(), Error> {
        let due = |job: &Job| !self.begun || job.at.step.is_multiple_of(self.every);
        if let Some(job) = jobs.first().filter(|job| due(job)) {
            check(model, job, settings)?;
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
        at: MicroBatch { ..job.at },
        batch: &batch,
        weights: job.weights.clone(),
    }];
    let normalizer = batch.supervised_tokens() as f64;
    let run = |model: &Llama| accumulate(model, &[], &job, settings, normalizer);
    let found = run(model)?;
    let reference = model.clone().fork(&device("cpu")?);
    let reference = map_parameters(reference, |_, _, values| to_f32(values));
    compare(&found, &run(&reference)?, job[0].at.step, settings.dtype)
}

fn compare(
    found: &Accumulated,
    expected: &Accumulated,
    step: u64,
    dtype: DType,
) -> Result<(), Error> {
    let losses = found.losses.iter().zip(&expected.losses);
    let losses = losses.map(|((exit, found), (_, expected))| {
        let mean = |nats: f64| nats / found.supervised as f64;
        (
            format!("the loss at exit {exit}"),
            mean(found.nats),
            mean(expected.nats),
        )
    });
    let norm = |sum: &Accumulated| sum.gradients.norm().unwrap_or(f64::NAN);
    let norm = ("the gradient norm".to_owned(), norm(found), norm(expected));
    for (what, found, expected) in losses.chain([norm]) {
        // NaN is not.
        let near = (found - expected).abs() <= tolerance(dtype) * (1.0 + expected.abs());
        if !near {
            return Err(Error::WrongResults {
                step,
                what,
                found,
                expected,
                checkpoint: None,
            });
        }
    }
    Ok(())
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
