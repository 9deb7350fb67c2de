//! Results of steps: on several devices, with gradient checkpointing, in bf16, with distillation.

use super::*;

/// Three devices that share four micro-batches, and one device with a single batch.
#[test]
fn several_devices_are_one_with_a_larger_batch() {
    struct Joined(Counting);
    impl BatchStream for Joined {
        type Error = Infallible;
        fn next_batch(&mut self) -> Result<Batch, Infallible> {
            let rows: Vec<Example> = (0..4)
                .flat_map(|_| rows_of(&self.0.next_batch().unwrap()))
                .collect();
            Ok(Batch::from_examples(&rows.iter().collect::<Vec<_>>()).unwrap())
        }
        fn position(&self) -> StreamPosition {
            self.0.position()
        }
        fn seek(&mut self, position: StreamPosition) -> Result<(), Infallible> {
            self.0.seek(position)
        }
    }
    let trainer = |accumulation| {
        let mut settings = Site::new().settings(MethodName::Soft).train;
        settings.accumulation = accumulation;
        Trainer::new(model(), settings).unwrap()
    };
    let cpu = || test_device();
    let mut many = trainer(4).with_devices(vec![cpu(), cpu()]).unwrap();
    let mut one = trainer(1);
    let (mut apart, mut joined) = (Counting::default(), Joined(Counting::default()));
    for _ in 0..4 {
        let (many, one) = (
            many.step(&mut apart).unwrap(),
            one.step(&mut joined).unwrap(),
        );
        assert_eq!(many.supervised_tokens, one.supervised_tokens);
        for (many, one) in many.exits.iter().zip(&one.exits) {
            assert!(
                (many.loss - one.loss).abs() < 1e-4 * one.loss,
                "{many:?} {one:?}"
            );
        }
        assert!((many.gradient_norm - one.gradient_norm).abs() < 1e-4 * one.gradient_norm);
    }
}

/// A stopped run goes on with the state of the optimizer on the devices that own it.
#[test]
fn two_devices_resume_to_the_bit() {
    let soft = Site::new().settings(MethodName::Soft);
    let lora = edited(soft.clone(), |train| train.lora = Some(Lora::new(2))).unwrap();
    for settings in [soft, lora] {
        let site = Site::new();
        let settings = || RunSettings {
            base: site.path("base"),
            ..settings.clone()
        };
        let on_two = |run: Run<Counting>| run.with_devices(vec![test_device()]).unwrap();
        finish(on_two(site.start("whole", settings()).unwrap()));
        let mut run = on_two(site.start("stopped", settings()).unwrap());
        draw(&mut run, 4);
        run.checkpoint().unwrap();
        drop(run);
        finish(on_two(site.resume("stopped", settings()).unwrap()));
        assert_eq!(outcome(&site.path("stopped")), outcome(&site.path("whole")));
    }
}

fn rows_of(batch: &Batch) -> Vec<Example> {
    batch
        .row_tokens()
        .map(|row| Example::text(row.to_vec()))
        .collect()
}

/// Recomputed values equal stored ones.
#[test]
fn gradient_checkpointing_changes_no_result() {
    let losses = |checkpointing| {
        let mut settings = Site::new().settings(MethodName::Soft).train;
        settings.gradient_checkpointing = checkpointing;
        let mut trainer = Trainer::new(model(), settings).unwrap();
        let mut stream = Counting::default();
        let step = |_| trainer.step(&mut stream).unwrap().loss;
        (0..4).map(step).collect::<Vec<_>>()
    };
    for (kept, again) in losses(false).into_iter().zip(losses(true)) {
        assert!((kept - again).abs() < 1e-5 * kept, "{kept} and {again}");
    }
}

/// Updates smaller than the rounding of a bf16 weight accumulate in the f32 copy.
#[test]
fn small_steps_are_not_lost_in_bf16() {
    let trained = |weights, peak| {
        let mut settings = Site::new().settings(MethodName::Soft).train;
        settings.dtype = weights;
        settings.schedule.peak = peak;
        settings.schedule.decay = Decay::Constant;
        settings.steps = 40;
        let mut trainer = Trainer::new(model(), settings).unwrap();
        let mut stream = Counting::default();
        let losses: Vec<f64> = (0..40)
            .map(|_| trainer.step(&mut stream).unwrap().loss)
            .collect();
        losses
    };
    // Weights are around 0.3, where bf16 values are 0.002 apart: a single update of 1e-4 is lost.
    let whole = trained(DType::F32, 1e-4);
    let half = trained(DType::Bf16, 1e-4);
    assert!((half[0] - whole[0]).abs() < 0.02 * whole[0]);
    let fell = |losses: &[f64]| losses[..4].iter().sum::<f64>() - losses[36..].iter().sum::<f64>();
    assert!(fell(&half) > 0.8 * fell(&whole), "{half:?} {whole:?}");
    assert!(fell(&whole) > 0.0);
}

#[test]
fn divergence_is_logged_when_distilling() {
    let site = Site::new();
    let settings = edited(site.settings(MethodName::Soft), |train| {
        train.distillation = Some(Distillation {
            share: 1.0,
            temperature: 1.0,
        });
    });
    let settings = settings.unwrap();
    let (log, _) = site.whole("run", settings);
    for line in log {
        if let LogLine::Train(report) = line {
            let [first, second, full] = report.exits.as_slice() else {
                panic!("{report:?}");
            };
            assert!(first.divergence > Some(0.0) && second.divergence > Some(0.0));
            assert_eq!(full.divergence, Some(0.0));
            let sum = first.divergence.unwrap() + second.divergence.unwrap() + full.loss;
            assert!((report.loss - sum / 3.0).abs() < 1e-5, "{report:?}");
        }
    }
}

/// A learning rate of 1e30 ruins the weights at once. The run stops with an error that names the
/// step, and no checkpoint of such weights replaces a good one.
#[test]
fn a_rate_that_blows_up_stops_and_leaves_the_good_checkpoint() {
    let site = Site::new();
    let mut settings = site.settings(MethodName::Soft);
    settings.train.schedule = Schedule {
        peak: 1e30,
        warmup_steps: 0,
        decay: Decay::Constant,
    };
    settings.keep_checkpoints = 1;
    settings.checkpoint_every = None;
    let mut run = site.start("run", settings).unwrap();
    run.checkpoint().unwrap(); // of step 0
    let error = run
        .find_map(Result::err)
        .expect("a rate of 1e30 ends in no finite number");
    let message = error.to_string();
    let (step, checkpoint) = match error {
        Error::LossNotFinite {
            step,
            checkpoint,
            exit,
            ..
        } => {
            assert!([1, 2, 4].contains(&exit));
            (step, checkpoint)
        }
        Error::GradientNotFinite {
            step, checkpoint, ..
        } => (step, checkpoint),
        other => panic!("{other}"),
    };
    assert!(step > 1 && checkpoint == Some(0), "{message}");
    let parts = [&format!("step {step}"), "exit", "checkpoint is step 0"];
    assert!(
        parts.iter().all(|part| message.contains(*part)),
        "{message}"
    );
    assert!(run.next().is_none(), "a failed run does not go on");
    assert_eq!(checkpoints(&site.path("run")), ["step-000000"]);
    let saved = fs::read(site.path("run/checkpoints/step-000000/model.safetensors")).unwrap();
    assert_eq!(
        saved,
        fs::read(site.path("base/model.safetensors")).unwrap()
    );
}
