//! Training runs on disk: resumed runs equal uninterrupted ones, and bad values stop a run safely.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests fail by panicking

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};

use soft_burn::burn::tensor::Device;
use soft_burn::{
    AdamWSettings, Balance, Combination, Curriculum, DType, Decay, Distillation, Error,
    FlatSettings, LayerDropout, Llama, LlamaConfig, LogLine, Lora, MethodName, Objective,
    RopeScaling, Run, RunData, RunSettings, SampledPerBatch, SaveOptions, Schedule, StepReport,
    TrainSettings, Trainer, Weights, device,
};
use soft_core::loss::DepthWeights;
use soft_core::{
    Batch, BatchModel, BatchStream, Example, Exits, LossSchedule, MicroBatch, StreamPosition,
};

mod continued;
mod formats;
mod methods;
mod numbers;
mod settings;

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
        architecture: soft_burn::Architecture::default(),
        other: Default::default(),
    };
    Llama::random(config, 3, &test_device()).unwrap()
}

/// `cpu`, or the device named by `SOFT_TEST_DEVICE`.
fn test_device() -> Device {
    let name = std::env::var("SOFT_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    device(&name).unwrap()
}

/// A stream whose batches are a function of its position.
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
    Batch::from_examples(&[&row(0), &row(3)]).unwrap()
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

/// A temporary folder with the base model of the runs.
struct Site {
    root: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self {
            root: tempfile::tempdir().unwrap(),
        };
        model()
            .save_pretrained(site.path("base"), &SaveOptions::default())
            .unwrap();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn settings(&self, method: MethodName) -> RunSettings {
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
                ..TrainSettings::new(method, exits(), STEPS)
            },
            validate_every: Some(3),
            checkpoint_every: Some(2),
            keep_checkpoints: 2,
            base: self.path("base"),
            provenance: serde_json::json!({ "seed": 1 }),
        }
    }

    fn start(&self, name: &str, settings: RunSettings) -> Result<Run<Counting>, Error> {
        Run::start(&self.path(name), model(), settings, data())
    }

    fn resume(&self, name: &str, settings: RunSettings) -> Result<Run<Counting>, Error> {
        Run::resume(&self.path(name), settings, data(), &test_device())
    }

    /// SoFT with these exit weights and `draws` exits per micro-batch.
    fn sampled(&self, weights: [f64; 3], draws: usize) -> RunSettings {
        edited(self.settings(MethodName::Soft), |train| {
            train.exit_weights = Some(Weights::PerExit(weights.to_vec()));
            train.sampled_exits = Some(SampledPerBatch { draws, seed: 4 });
        })
        .unwrap()
    }

    fn undisturbed(&self, name: &str, method: MethodName) -> (Vec<LogLine>, Vec<u8>) {
        self.whole(name, self.settings(method))
    }

    fn whole(&self, name: &str, settings: RunSettings) -> (Vec<LogLine>, Vec<u8>) {
        finish(self.start(name, settings).unwrap());
        outcome(&self.path(name))
    }
}

/// Settings edited in their flat form, which allows contradictions.
fn edited(
    settings: RunSettings,
    edit: impl FnOnce(&mut FlatSettings),
) -> Result<RunSettings, Error> {
    let mut flat = FlatSettings::from(settings.train.clone());
    edit(&mut flat);
    let train = TrainSettings::try_from(flat)?;
    Ok(RunSettings { train, ..settings })
}

fn exits() -> Exits {
    Exits::new([1, 2, 4]).unwrap()
}

fn data() -> RunData<Counting> {
    RunData {
        stream: Counting::default(),
        validation: vec![batch(99)],
    }
}

fn draw(run: &mut Run<Counting>, lines: usize) {
    run.by_ref()
        .take(lines)
        .for_each(|line| drop(line.unwrap()));
}

fn finish(mut run: Run<Counting>) {
    draw(&mut run, usize::MAX);
    run.finish().unwrap();
}

/// The log without wall time, and the weights. Both must be bit-equal.
fn outcome(out: &Path) -> (Vec<LogLine>, Vec<u8>) {
    let log = fs::read_to_string(out.join("log.jsonl")).unwrap();
    let untimed = |line: &str| match serde_json::from_str(line).unwrap() {
        LogLine::Train(mut report) => {
            (report.seconds, report.tokens_per_second) = (0.0, 0.0);
            LogLine::Train(report)
        }
        other => other,
    };
    let weights = [
        "model/model.safetensors",
        "model/exit_heads.safetensors",
        "model/exit_blocks.safetensors",
        "adapter/adapter_model.safetensors",
    ];
    let weights = weights.map(|name| fs::read(out.join(name)).unwrap_or_default());
    (log.lines().map(untimed).collect(), weights.concat())
}

#[test]
fn stopped_after_any_line_and_resumed_is_the_same_to_the_bit() {
    let methods = MethodName::ALL.map(|method| Site::new().settings(method));
    let sampled = [1, 2].map(|draws| Site::new().sampled([0.5, 0.3, 0.2], draws));
    let soft = || Site::new().settings(MethodName::Soft);
    let options = options_of_soft().map(|option| edited(soft(), option).unwrap());
    let mut checkpointed = soft();
    checkpointed.train.gradient_checkpointing = true;
    let balcony = Site::new().settings(MethodName::Balcony);
    let with_body = edited(balcony, |train| train.train_body = true).unwrap();
    let all = methods.into_iter().chain(sampled).chain(options);
    for settings in all.chain([checkpointed, with_body]) {
        let site = Site::new();
        let settings = || RunSettings {
            base: site.path("base"),
            ..settings.clone()
        };
        let expected = site.whole("whole", settings());
        // 6 steps and validations after 0, 3 and 6: 9 lines.
        assert_eq!(expected.0.len(), 9);
        for lines in 0..9 {
            let name = format!("stopped-{lines}");
            let mut run = site.start(&name, settings()).unwrap();
            draw(&mut run, lines);
            if lines % 2 == 1 {
                run.checkpoint().unwrap(); // as on Ctrl-C; else as on a kill
            }
            drop(run);
            finish(site.resume(&name, settings()).unwrap());
            assert_eq!(
                outcome(&site.path(&name)),
                expected,
                "{:?} stopped after {lines} lines",
                settings().train
            );
        }
    }
}

/// Options beyond the paper's method.
fn options_of_soft() -> [fn(&mut FlatSettings); 11] {
    [
        |train| train.last_blocks = Some(2),
        |train| train.lora = Some(Lora::new(2)),
        |train| train.layer_dropout = Some(LayerDropout { rate: 0.6, seed: 2 }),
        |train| train.weights = DType::Bf16,
        |train| train.exit_weights = Some(Weights::ByDepth(DepthWeights::Quadratic)),
        |train| train.curriculum = Some(Curriculum::Rotational { every: 2 }),
        |train| train.curriculum = Some(Curriculum::Gradual { steps: 4 }),
        |train| {
            train.distillation = Some(Distillation {
                share: 0.5,
                temperature: 2.0,
            });
        },
        |train| {
            train.balance = Balance {
                limit: Some(0.5),
                ..Balance::default()
            };
        },
        |train| train.balance.combination = Combination::ClipApart,
        |train| train.balance.combination = Combination::Project,
    ]
}

/// Every option changes the result, and each in its own way.
#[test]
fn every_option_trains_another_model() {
    let site = Site::new();
    let mut outcomes = vec![site.whole("plain", site.settings(MethodName::Soft)).1];
    for (index, option) in options_of_soft().into_iter().enumerate() {
        let settings = edited(site.settings(MethodName::Soft), option).unwrap();
        let (_, weights) = site.whole(&format!("run-{index}"), settings);
        assert!(!outcomes.contains(&weights), "option {index}");
        outcomes.push(weights);
    }
}

#[test]
fn half_written_files_do_not_stop_a_resume() {
    let site = Site::new();
    let expected = site.undisturbed("whole", MethodName::Soft);
    let mut run = site
        .start("killed", site.settings(MethodName::Soft))
        .unwrap();
    draw(&mut run, 4);
    drop(run);
    let out = site.path("killed");
    for leftover in [".step-000004.partial", ".step-000001.removed"] {
        let leftover = out.join("checkpoints").join(leftover);
        fs::create_dir_all(&leftover).unwrap();
        fs::write(leftover.join("model.safetensors"), "half").unwrap();
    }
    let mut log = fs::read_to_string(out.join("log.jsonl")).unwrap();
    log.push_str("{\"train\":{\"step\":4,\"lo");
    fs::write(out.join("log.jsonl"), log).unwrap();
    finish(
        site.resume("killed", site.settings(MethodName::Soft))
            .unwrap(),
    );
    assert_eq!(outcome(&out), expected);
    assert_eq!(checkpoints(&out), ["step-000004", "step-000006"]);
}

fn checkpoints(out: &Path) -> Vec<String> {
    let entries = fs::read_dir(out.join("checkpoints")).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn only_the_newest_checkpoints_are_kept() {
    let site = Site::new();
    site.undisturbed("run", MethodName::Soft);
    assert_eq!(
        checkpoints(&site.path("run")),
        ["step-000004", "step-000006"]
    );
}

#[test]
fn other_settings_cannot_resume_a_run() {
    let site = Site::new();
    drop(site.start("run", site.settings(MethodName::Soft)).unwrap());
    let mut other = site.settings(MethodName::Soft);
    other.train.schedule.peak = 0.5;
    let message = site.resume("run", other).unwrap_err().to_string();
    assert!(
        message.contains("train.schedule.peak was 0.01"),
        "{message}"
    );
    let mut other = site.settings(MethodName::Soft);
    other.provenance["rows"] = 7.into();
    let message = site.resume("run", other).unwrap_err().to_string();
    assert!(message.contains("provenance.rows was null"), "{message}");
}

#[test]
fn a_finished_or_foreign_folder_is_left_alone() {
    let site = Site::new();
    let expected = site.undisturbed("run", MethodName::Soft);
    let again = site.start("run", site.settings(MethodName::Soft));
    assert!(matches!(again, Err(Error::OutputExists { .. })));
    let message = site
        .resume("run", site.settings(MethodName::Soft))
        .unwrap_err()
        .to_string();
    assert!(message.contains("finished"), "{message}");
    assert_eq!(outcome(&site.path("run")), expected);
    let message = site
        .resume("base", site.settings(MethodName::Soft))
        .unwrap_err()
        .to_string();
    assert!(message.contains("run.json"), "{message}");
}
