//! Training runs on disk: resumed runs equal undisturbed ones, and bad numbers stop a run safely.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test's way to fail

use std::convert::Infallible;
use std::fs;
use std::path::Path;

use soft_burn::{
    AdamWSettings, Decay, Error, Llama, LlamaConfig, LogLine, Method, RopeScaling, Run,
    RunSettings, Schedule, TrainSettings, device,
};
use soft_core::{Batch, BatchStream, Example, Exits, StreamPosition};

const STEPS: u64 = 6;

fn model() -> Llama {
    let config = LlamaConfig {
        vocab: 11,
        d_model: 8,
        d_feed_forward: 12,
        n_layers: 4,
        n_heads: 2,
        n_kv_heads: 2,
        head_dim: 4,
        norm_eps: 1e-5,
        rope_theta: 100.0,
        rope_scaling: RopeScaling::None,
        max_positions: 32,
        tied: true,
        initializer_range: 0.3,
        other: Default::default(),
    };
    Llama::random(config, 3, &device("cpu").unwrap()).unwrap()
}

/// A stream whose batches are a function of the position.
#[derive(Debug, Default)]
struct Counting(StreamPosition);

fn batch(index: u64) -> Batch {
    let row = |offset: u64| {
        Example::text(
            (0..5)
                .map(|i| ((index * 7 + offset + i * i) % 11) as u32)
                .collect(),
        )
    };
    Batch::from_examples(&[&row(0), &row(3)], 0).unwrap()
}

impl BatchStream for Counting {
    type Error = Infallible;

    fn next_batch(&mut self) -> Result<Batch, Infallible> {
        let index = self.0.epoch * 4 + self.0.batch;
        self.0.batch += 1;
        if self.0.batch == 4 {
            self.0 = StreamPosition {
                epoch: self.0.epoch + 1,
                batch: 0,
            };
        }
        Ok(batch(index))
    }

    fn position(&self) -> StreamPosition {
        self.0
    }

    fn seek(&mut self, position: StreamPosition) -> Result<(), Infallible> {
        self.0 = position;
        Ok(())
    }
}

fn settings(method: Method) -> RunSettings {
    RunSettings {
        train: TrainSettings {
            accumulation: 2,
            schedule: Schedule {
                peak: 1e-2,
                warmup_steps: 2,
                decay: Decay::Cosine,
            },
            optimizer: AdamWSettings {
                weight_decay: 0.1,
                ..AdamWSettings::default()
            },
            ..TrainSettings::new(method, Exits::new([1, 2, 4]).unwrap(), STEPS)
        },
        validate_every: Some(3),
        checkpoint_every: Some(2),
        keep_checkpoints: 2,
        base: "base".into(),
        provenance: serde_json::json!({ "seed": 1 }),
    }
}

/// The log without wall time, and the weights, which must be equal to the bit.
fn outcome(out: &Path) -> (Vec<LogLine>, Vec<u8>) {
    let log = fs::read_to_string(out.join("log.jsonl")).unwrap();
    let untimed = |line: &str| match serde_json::from_str(line).unwrap() {
        LogLine::Train(mut report) => {
            (report.seconds, report.tokens_per_second) = (0.0, 0.0);
            LogLine::Train(report)
        }
        other => other,
    };
    let weights = ["model.safetensors", "exit_heads.safetensors"];
    let weights = weights.map(|name| fs::read(out.join("model").join(name)).unwrap_or_default());
    (log.lines().map(untimed).collect(), weights.concat())
}

fn undisturbed(out: &Path, method: Method) -> (Vec<LogLine>, Vec<u8>) {
    let mut run = Run::start(
        out,
        model(),
        settings(method),
        Counting::default(),
        vec![batch(99)],
    )
    .unwrap();
    run.by_ref().for_each(|line| drop(line.unwrap()));
    run.finish().unwrap();
    outcome(out)
}

#[test]
fn stopped_after_any_line_and_resumed_is_the_same_to_the_bit() {
    for method in [Method::Soft, Method::Sft, Method::Ict] {
        let root = tempfile::tempdir().unwrap();
        let expected = undisturbed(&root.path().join("whole"), method);
        // 6 steps and validations after 0, 3 and 6: 9 lines.
        assert_eq!(expected.0.len(), 9);
        for lines in 0..9 {
            let out = root.path().join(format!("stopped-{lines}"));
            let mut run = Run::start(
                &out,
                model(),
                settings(method),
                Counting::default(),
                vec![batch(99)],
            )
            .unwrap();
            run.by_ref()
                .take(lines)
                .for_each(|line| drop(line.unwrap()));
            if lines % 2 == 1 {
                run.checkpoint().unwrap(); // as on Ctrl-C; else as on a kill
            }
            drop(run);
            let mut run = Run::resume(
                &out,
                || Ok(model()),
                settings(method),
                Counting::default(),
                vec![batch(99)],
                &device("cpu").unwrap(),
            )
            .unwrap();
            run.by_ref().for_each(|line| drop(line.unwrap()));
            run.finish().unwrap();
            assert_eq!(
                outcome(&out),
                expected,
                "{method:?} stopped after {lines} lines"
            );
        }
    }
}

#[test]
fn half_written_files_do_not_stop_a_resume() {
    let root = tempfile::tempdir().unwrap();
    let expected = undisturbed(&root.path().join("whole"), Method::Soft);
    let out = root.path().join("killed");
    let mut run = Run::start(
        &out,
        model(),
        settings(Method::Soft),
        Counting::default(),
        vec![batch(99)],
    )
    .unwrap();
    run.by_ref().take(4).for_each(|line| drop(line.unwrap()));
    drop(run);
    let partial = out.join("checkpoints/.step-000004.partial");
    fs::create_dir_all(&partial).unwrap();
    fs::write(partial.join("model.safetensors"), "half").unwrap();
    let mut log = fs::read_to_string(out.join("log.jsonl")).unwrap();
    log.push_str("{\"train\":{\"step\":4,\"lo");
    fs::write(out.join("log.jsonl"), log).unwrap();
    let mut run = Run::resume(
        &out,
        || Ok(model()),
        settings(Method::Soft),
        Counting::default(),
        vec![batch(99)],
        &device("cpu").unwrap(),
    )
    .unwrap();
    run.by_ref().for_each(|line| drop(line.unwrap()));
    run.finish().unwrap();
    assert_eq!(outcome(&out), expected);
}

#[test]
fn only_the_newest_checkpoints_are_kept() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("run");
    undisturbed(&out, Method::Soft);
    let mut names: Vec<_> = fs::read_dir(out.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["step-000004", "step-000006"]);
}

#[test]
fn other_settings_cannot_resume_a_run() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("run");
    let started = Run::start(
        &out,
        model(),
        settings(Method::Soft),
        Counting::default(),
        vec![],
    );
    drop(started.unwrap());
    let mut other = settings(Method::Soft);
    other.train.schedule.peak = 0.5;
    let resumed = Run::resume(
        &out,
        || Ok(model()),
        other,
        Counting::default(),
        vec![],
        &device("cpu").unwrap(),
    );
    let message = resumed.unwrap_err().to_string();
    assert!(
        message.contains("train.schedule.peak was 0.01"),
        "{message}"
    );
}

#[test]
fn a_run_is_not_started_over_another() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("run");
    let expected = undisturbed(&out, Method::Soft);
    let again = Run::start(
        &out,
        model(),
        settings(Method::Soft),
        Counting::default(),
        vec![],
    );
    assert!(matches!(again, Err(Error::OutputExists { .. })));
    assert_eq!(outcome(&out), expected);
}

#[test]
fn a_rate_that_blows_up_stops_with_a_good_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("run");
    let mut settings = settings(Method::Soft);
    settings.train.schedule = Schedule {
        peak: 1e30,
        warmup_steps: 0,
        decay: Decay::Constant,
    };
    settings.checkpoint_every = None;
    let mut run = Run::start(&out, model(), settings, Counting::default(), vec![]).unwrap();
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
    assert_eq!(checkpoint, step - 1);
    assert!(
        message.contains(&format!("step {step}")) && message.contains("exit"),
        "{message}"
    );
    assert!(run.next().is_none());
    let folder = out.join(format!("checkpoints/step-{checkpoint:06}"));
    let progress = fs::read_to_string(folder.join("progress.json")).unwrap();
    let position: serde_json::Value = serde_json::from_str(&progress).unwrap();
    let micro_batches = position["position"]["epoch"].as_u64().unwrap() * 4
        + position["position"]["batch"].as_u64().unwrap();
    assert_eq!(
        micro_batches,
        2 * checkpoint,
        "the failed step's batches are read again"
    );
    assert!(Llama::from_pretrained(&folder, &device("cpu").unwrap()).is_ok());
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let out = tempfile::tempdir().unwrap().path().join("run");
    let mut bad = settings(Method::Soft);
    bad.train.steps = 0;
    let error = Run::start(&out, model(), bad, Counting::default(), vec![]).unwrap_err();
    assert!(error.to_string().contains("steps is 0"), "{error}");
    let mut bad = settings(Method::Soft);
    bad.train.exits = Exits::new([2, 5]).unwrap();
    let error = Run::start(&out, model(), bad, Counting::default(), vec![]).unwrap_err();
    assert!(error.to_string().contains('5'), "{error}");
    assert!(!out.exists());
}
