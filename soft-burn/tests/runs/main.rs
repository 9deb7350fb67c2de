//! Training runs on disk: resumed runs equal uninterrupted ones, and bad numbers stop a run safely.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test's way to fail

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};

use soft_burn::burn::tensor::{Device, GradientCheckpointingStrategy};
use soft_burn::{
    AdamWSettings, Balance, Curriculum, DType, Decay, Distillation, Error, ExitLoss, FlatSettings,
    LayerDropout, Llama, LlamaConfig, LogLine, Lora, MethodName, Objective, RopeScaling, Run,
    RunData, RunSettings, SampledPerBatch, SaveOptions, Schedule, SharedHead, TrainSettings,
    Trainer, Weights, device,
};
use soft_core::loss::DepthWeights;
use soft_core::{
    Batch, BatchModel, BatchStream, Example, Exits, LossSchedule, MicroBatch, StreamPosition,
};

mod continued;
mod formats;

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
    Llama::random(config, 3, &test_device()).unwrap()
}

/// `cpu`, or the device that `SOFT_TEST_DEVICE` names.
fn test_device() -> Device {
    let name = std::env::var("SOFT_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    device(&name).unwrap()
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

/// A temporary folder with the model that runs start from.
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

    /// SoFT with weights of its own, `draws` exits a step.
    fn sampled(&self, weights: [f64; 3], draws: usize) -> RunSettings {
        edited(self.settings(MethodName::Soft), |train| {
            train.exit_weights = Some(Weights::PerExit(weights.to_vec()));
            train.sampled_exits = Some(SampledPerBatch { draws, seed: 4 });
        })
        .unwrap()
    }

    /// Log and weights of a run that nothing disturbs.
    fn undisturbed(&self, name: &str, method: MethodName) -> (Vec<LogLine>, Vec<u8>) {
        self.whole(name, self.settings(method))
    }

    fn whole(&self, name: &str, settings: RunSettings) -> (Vec<LogLine>, Vec<u8>) {
        finish(self.start(name, settings).unwrap());
        outcome(&self.path(name))
    }
}

/// These settings, changed in the form that can contradict itself.
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

/// The ways beside the paper's own.
fn options_of_soft() -> [fn(&mut FlatSettings); 10] {
    [
        |train| train.last_blocks = Some(2),
        |train| train.lora = Some(Lora::new(2)),
        |train| train.layer_dropout = Some(LayerDropout { rate: 0.6, seed: 2 }),
        |train| train.weights = DType::Bf16,
        |train| train.exit_weights = Some(Weights::ByDepth(DepthWeights::Quadratic)),
        |train| train.curriculum = Some(Curriculum::Rotational { every: 2 }),
        |train| train.curriculum = Some(Curriculum::Gradual { steps: 4 }),
        |train| train.curriculum = Some(Curriculum::Ramp { steps: 4 }),
        |train| {
            train.distillation = Some(Distillation {
                share: 0.5,
                temperature: 2.0,
            });
        },
        |train| {
            train.balance = Balance {
                limit: Some(0.5),
                limit_from: Some(3),
                shared_head: SharedHead::FullDepth,
            };
        },
    ]
}

/// No option does what another does, or nothing.
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

/// Three devices that share four micro-batches, and one that has them in one batch.
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

/// The rows of a batch of whole texts.
fn rows_of(batch: &Batch) -> Vec<Example> {
    batch
        .row_tokens()
        .map(|row| Example::text(row.to_vec()))
        .collect()
}

/// What is frozen stays as it was, to the bit.
#[test]
fn only_the_parts_of_a_method_are_trained() {
    let site = Site::new();
    let tensors = |path: &Path| {
        let bytes = fs::read(path.join("model.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let of =
            |(name, view): (String, safetensors::tensor::TensorView)| (name, view.data().to_vec());
        tensors
            .tensors()
            .into_iter()
            .map(of)
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let base = tensors(&site.path("base"));
    let moved = |name: &str, settings: RunSettings| {
        site.whole(name, settings);
        let trained = tensors(&site.path(name).join("model"));
        assert!(trained.keys().eq(base.keys()));
        let other = |name: &&String| trained[*name] != base[*name];
        base.keys().filter(other).cloned().collect::<Vec<_>>()
    };
    for method in [MethodName::Ict, MethodName::Balcony] {
        assert!(moved(method.as_str(), site.settings(method)).is_empty());
    }
    let lora = edited(site.settings(MethodName::Soft), |train| {
        train.lora = Some(Lora {
            targets: vec!["v_proj".to_owned()],
            layers: Some(vec![1, 3]),
            ..Lora::new(2)
        });
    });
    let lora = lora.unwrap();
    let name = |layer| format!("model.layers.{layer}.self_attn.v_proj.weight");
    assert_eq!(moved("lora", lora), [name(1), name(3)]);
}

/// What is computed again is what would have been kept.
#[test]
fn gradient_checkpointing_changes_no_result() {
    let losses = |checkpointing| {
        let mut settings = Site::new().settings(MethodName::Soft).train;
        settings.gradient_checkpointing = checkpointing;
        let mut trainer = Trainer::new(model(), settings).unwrap();
        let mut stream = Counting::default();
        let mut step = |_| {
            let loss = trainer.step(&mut stream).unwrap().loss;
            let strategy = trainer.model().device().gradient_checkpointing_strategy();
            let balanced = GradientCheckpointingStrategy::Balanced;
            assert_eq!(strategy == Some(balanced), checkpointing);
            loss
        };
        (0..4).map(&mut step).collect::<Vec<_>>()
    };
    for (kept, again) in losses(false).into_iter().zip(losses(true)) {
        assert!((kept - again).abs() < 1e-5 * kept, "{kept} and {again}");
    }
}

/// Steps smaller than a bf16 weight's rounding add up in the f32 copy.
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
    // Weights are around 0.3, whose neighbors in bf16 are 0.002 apart: a step of 1e-4 is lost by
    // itself.
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

/// A rate of 1e30 makes weights that are useless at once: the run stops and says where, and no
/// checkpoint of such weights ever replaces a good one.
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

#[test]
fn ict_trains_the_new_heads_and_nothing_else() {
    let site = Site::new();
    trains_only(
        &site,
        site.settings(MethodName::Ict),
        "exit_heads.safetensors",
    );
    // Both folders load again, without soft.json too, and the heads are where they were.
    for folder in ["run/model", "untrained"] {
        let loaded = Llama::from_pretrained(site.path(folder), &test_device()).unwrap();
        let depths: Vec<_> = loaded
            .exits_with_heads()
            .iter()
            .map(|exit| exit.depth())
            .collect();
        assert_eq!(depths, [1, 2]);
    }
}

/// From the targets, and from the full depth without a label; every one of the new parts moves.
#[test]
fn balcony_trains_the_new_blocks_and_nothing_else() {
    for distillation in [
        None,
        Some(Distillation {
            share: 1.0,
            temperature: 1.0,
        }),
    ] {
        let site = Site::new();
        let settings = site.settings(MethodName::Balcony);
        let settings = edited(settings, |train| train.distillation = distillation).unwrap();
        trains_only(&site, settings.clone(), "exit_blocks.safetensors");
        let mut trainer = Trainer::new(model(), settings.train).unwrap();
        let mut loss = || {
            // From the start of the data each time: the same batches.
            let report = trainer.step(&mut Counting::default()).unwrap();
            assert_eq!(report.exits.len(), 2);
            report.loss
        };
        let losses = [(); 6].map(|()| loss());
        assert!(losses[5] < 0.98 * losses[0], "{losses:?}");
    }
}

/// The body learns as under SFT, but for what clipping makes of the exits' gradients; its exits
/// learn beside it.
#[test]
fn a_body_beside_balconies_is_trained_by_the_full_depth_alone() {
    let trained = |method, train_body| {
        let settings = Site::new().settings(method);
        let settings = edited(settings, |train| train.train_body = train_body);
        let mut settings = settings.unwrap().train;
        settings.optimizer.clip_norm = None;
        // AdamW ignores the weight 1/3 but for this.
        settings.optimizer.eps = 1e-20;
        let mut trainer = Trainer::new(model(), settings).unwrap();
        let mut stream = Counting::default();
        let last = (0..4).map(|_| trainer.step(&mut stream).unwrap()).last();
        (last.unwrap(), trainer.validate(&[batch(99)]).unwrap())
    };
    let (sft, sft_validation) = trained(MethodName::Sft, false);
    let (both, validation) = trained(MethodName::Balcony, true);
    let full = |losses: &[ExitLoss]| losses.last().unwrap().loss;
    assert!((full(&both.exits) - full(&sft.exits)).abs() < 1e-4 * full(&sft.exits));
    let (found, wanted) = (full(&validation), full(&sft_validation));
    assert!((found - wanted).abs() < 1e-4 * wanted, "{found} {wanted}");
    assert_eq!(both.exits.len(), 3);
    let (_, frozen) = trained(MethodName::Balcony, false);
    assert!((full(&frozen) - wanted).abs() > 1e-3);
}

/// The run leaves the base as it was and moves every tensor of `parts`.
fn trains_only(site: &Site, settings: RunSettings, parts: &str) -> (Vec<LogLine>, Vec<u8>) {
    let outcome = site.whole("run", settings.clone());
    let file = |name: String| fs::read(site.path(&name)).unwrap();
    let base = file("base/model.safetensors".to_owned());
    assert_eq!(file("run/model/model.safetensors".to_owned()), base);
    let untrained = Trainer::new(model(), settings.train).unwrap().trained();
    let options = SaveOptions::default();
    untrained
        .save_pretrained(site.path("untrained"), &options)
        .unwrap();
    let (before, after) = (
        file(format!("untrained/{parts}")),
        file(format!("run/model/{parts}")),
    );
    let before = safetensors::SafeTensors::deserialize(&before).unwrap();
    let after = safetensors::SafeTensors::deserialize(&after).unwrap();
    assert_eq!(before.len(), after.len());
    for name in before.names() {
        let (before, after) = (before.tensor(name).unwrap(), after.tensor(name).unwrap());
        assert_ne!(before.data(), after.data(), "{name}");
    }
    outcome
}

/// A checkpoint of a run with an adapter is that model, for whoever loads it.
#[test]
fn a_checkpoint_with_an_adapter_loads_as_it_is() {
    let site = Site::new();
    let settings = site.settings(MethodName::Soft);
    let settings = edited(settings, |train| train.lora = Some(Lora::new(2))).unwrap();
    let run = site.start("run", settings).unwrap();
    finish(run);
    let load = |name: &str| Llama::from_pretrained(site.path(name), &test_device());
    let losses = |model: Llama| {
        let exits = exits();
        let scores = model.batch_scores(&batch(99), &exits).unwrap();
        scores
            .concat()
            .iter()
            .map(|score| score.nats)
            .collect::<Vec<_>>()
    };
    let finished = losses(load("run/model").unwrap());
    assert_eq!(
        losses(load("run/checkpoints/step-000006").unwrap()),
        finished
    );
    assert_ne!(losses(load("base").unwrap()), finished);
}

/// What an exit that is not drawn costs: nothing; and what lies behind the drawn ones stays as it
/// was.
#[test]
fn a_step_trains_the_exits_it_draws() {
    let site = Site::new();
    let (log, _) = site.whole("run", site.sampled([0.5, 0.5, 0.0], 1));
    let mut drawn = Vec::new();
    for line in log {
        if let LogLine::Train(report) = line {
            let depths = report.exits.iter().map(|exit| exit.exit.depth());
            drawn.push(depths.collect::<Vec<_>>());
        }
    }
    // Two micro-batches a step, each of which draws for itself.
    drawn.sort_unstable();
    drawn.dedup();
    assert_eq!(drawn, [vec![1], vec![1, 2], vec![2]]);
    let layers = |folder: &str| {
        let bytes = fs::read(site.path(folder).join("model.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        (0..4)
            .map(|layer| {
                let name = format!("model.layers.{layer}.mlp.up_proj.weight");
                tensors.tensor(&name).unwrap().data().to_vec()
            })
            .collect::<Vec<_>>()
    };
    let (before, after) = (layers("base"), layers("run/model"));
    let moved: Vec<bool> = before.iter().zip(&after).map(|(a, b)| a != b).collect();
    assert_eq!(moved, [true, true, false, false]);
}

#[test]
fn frozen_blocks_stay_and_the_last_ones_learn() {
    let site = Site::new();
    let settings = site.settings(MethodName::Soft);
    let settings = edited(settings, |train| train.last_blocks = Some(2)).unwrap();
    site.whole("run", settings);
    let read = |folder: &str| fs::read(site.path(folder).join("model.safetensors")).unwrap();
    let (before, after) = (read("base"), read("run/model"));
    let [before, after] =
        [&before, &after].map(|bytes| safetensors::SafeTensors::deserialize(bytes).unwrap());
    for (name, tensor) in before.tensors() {
        let learns = ["layers.2.", "layers.3.", "model.norm.", "lm_head."];
        let learns = learns.iter().any(|part| name.contains(part));
        let moved = tensor.data() != after.tensor(&name).unwrap().data();
        assert_eq!(moved, learns, "{name}");
    }
}

#[test]
fn heads_and_methods_that_do_not_go_together_are_refused() {
    let site = Site::new();
    let with_heads = || model().with_exit_heads(&exits()).unwrap();
    for (method, depths, part) in [
        (MethodName::Soft, vec![1, 2, 4], "heads of its own at 1, 2"),
        (MethodName::Sft, vec![1, 2, 4], "heads of its own at 1, 2"),
        (MethodName::Ict, vec![1, 3, 4], "heads of its own at 1, 2"),
        (MethodName::Ict, vec![4], "intermediate"),
    ] {
        let mut settings = site.settings(method).train;
        settings.exits = Exits::new(depths).unwrap();
        let message = Trainer::new(with_heads(), settings)
            .unwrap_err()
            .to_string();
        assert!(message.contains(part), "{message}");
    }
    assert!(Trainer::new(with_heads(), site.settings(MethodName::Ict).train).is_ok());
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let site = Site::new();
    let refused = |edit: fn(&mut FlatSettings), part: &str| {
        let settings = edited(site.settings(MethodName::Soft), edit);
        let error = settings.and_then(|settings| site.start("run", settings));
        let message = error.unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
        assert!(!site.path("run").exists());
    };
    refused(|train| train.steps = 0, "steps is 0");
    for (key, edit) in [
        (
            "keep_checkpoints",
            (|it| it.keep_checkpoints = 0) as fn(&mut RunSettings),
        ),
        ("validate_every", |it| it.validate_every = Some(0)),
    ] {
        let mut settings = site.settings(MethodName::Soft);
        edit(&mut settings);
        let message = site.start("run", settings).unwrap_err().to_string();
        assert!(message.contains(&format!("{key} is 0")), "{message}");
    }
    refused(
        |train| train.exits = Exits::new([2, 5]).unwrap(),
        "it is 5, the model has 4",
    );
    refused(
        |train| train.exit_weights = Some(Weights::PerExit(vec![1.0, 2.0])),
        "weights of the exits is 2 for 3 exits",
    );
    refused(
        |train| train.exit_weights = Some(Weights::PerExit(vec![1.0, -2.0, 2.0])),
        "none negative, one above 0; found [1.0, -2.0, 2.0]",
    );
    refused(
        |train| train.exit_weights = Some(Weights::PerExit(vec![0.5, 0.5, 0.5])),
        "which sum to 1.5: expected weights that sum to 1",
    );
    refused(|train| train.lora = Some(Lora::new(0)), "lora rank is 0");
    refused(
        |train| {
            train.lora = Some(Lora {
                layers: Some(vec![4]),
                ..Lora::new(1)
            });
        },
        "lora layers is block 4 of a model of 4",
    );
    refused(
        |train| {
            train.lora = Some(Lora::new(1));
            train.last_blocks = Some(1);
        },
        "lora is some, and last blocks to train",
    );
    refused(
        |train| {
            train.lora = Some(Lora::new(1));
            train.method = MethodName::Balcony;
        },
        "lora is some, and method balcony",
    );
    refused(
        |train| train.layer_dropout = Some(LayerDropout { rate: 1.0, seed: 0 }),
        "layer dropout is 1",
    );
    refused(
        |train| {
            train.layer_dropout = Some(LayerDropout { rate: 0.1, seed: 0 });
            train.objective = Objective::Plain;
        },
        "objective is plain, with layer dropout",
    );
    refused(
        |train| train.sampled_exits = Some(SampledPerBatch { draws: 4, seed: 1 }),
        "exits sampled per micro-batch is 4 of 3",
    );
    refused(
        |train| train.sampled_exits = Some(SampledPerBatch { draws: 0, seed: 1 }),
        "0 exits sampled",
    );
    refused(
        |train| {
            train.method = MethodName::Sft;
            train.exit_weights = Some(Weights::PerExit(vec![0.5, 0.25, 0.25]));
        },
        "method sft",
    );
    refused(|train| train.train_body = true, "train_body is so");
    refused(
        |train| train.last_blocks = Some(5),
        "last blocks to train is 5 of 4",
    );
    refused(
        |train| {
            train.method = MethodName::Ict;
            train.last_blocks = Some(1);
        },
        "last blocks to train is some, and method ict",
    );
    refused(
        |train| train.curriculum = Some(Curriculum::Gradual { steps: 0 }),
        "join over 0 steps: expected at least 1",
    );
    for share in [0.0, 1.1, f64::NAN] {
        let settings = edited(site.settings(MethodName::Soft), |train| {
            train.distillation = Some(Distillation {
                share,
                temperature: 1.0,
            });
        });
        let settings = settings.unwrap();
        let message = site.start("run", settings).unwrap_err().to_string();
        assert!(message.contains("distillation share is"), "{message}");
    }
    refused(
        |train| {
            train.distillation = Some(Distillation {
                share: 1.0,
                temperature: 0.0,
            });
        },
        "distillation temperature is 0",
    );
    refused(
        |train| {
            train.method = MethodName::Sft;
            train.distillation = Some(Distillation {
                share: 1.0,
                temperature: 1.0,
            });
        },
        "distillation is some, and method sft",
    );
    refused(
        |train| train.balance.limit_from = Some(2),
        "balance limit_from is a step, and no limit",
    );
    refused(
        |train| train.balance.limit = Some(0.0),
        "balance limit is 0",
    );
    refused(
        |train| {
            train.balance.limit = Some(1.0);
            train.sampled_exits = Some(SampledPerBatch { draws: 1, seed: 1 });
        },
        "balance limit is one, and micro-batches without the full depth",
    );
    refused(
        |train| {
            train.balance.limit = Some(1.0);
            train.exit_weights = Some(Weights::PerExit(vec![0.5, 0.5, 0.0]));
        },
        "balance limit is one, and micro-batches without the full depth",
    );
    refused(
        |train| {
            train.balance.shared_head = SharedHead::FullDepth;
            train.objective = Objective::Plain;
        },
        "objective is plain, with distillation or balance",
    );
}

/// Half on the first exit, half on the full depth; or weights that are wrong.
struct Halves(f64);

impl LossSchedule for Halves {
    fn weights(&self, exits: &Exits, _at: MicroBatch) -> Vec<f64> {
        let mut weights = vec![0.0; exits.len()];
        weights[0] = self.0;
        weights[exits.len() - 1] = 0.5;
        weights
    }
}

#[test]
fn a_schedule_of_the_callers_own_is_named_and_not_forgotten() {
    let site = Site::new();
    let named = |name: &str| {
        let name = Some(name.to_owned());
        edited(site.settings(MethodName::Soft), |train| {
            train.loss_schedule = name
        })
        .unwrap()
    };
    let halves = |share| Box::new(Halves(share));
    let mut run = site.start("run", named("halves")).unwrap();
    let missing = run.find_map(Result::err).unwrap().to_string();
    drop(run);
    assert!(
        missing.contains("`halves`, and no schedule was given"),
        "{missing}"
    );
    let run = site.resume("run", named("halves")).unwrap();
    finish(run.with_loss_schedule(halves(0.5)).unwrap());

    let other = site.start("other", named("halves")).unwrap();
    drop(other);
    for settings in [site.settings(MethodName::Soft), named("thirds")] {
        let error = site.resume("other", settings).unwrap_err().to_string();
        assert!(error.contains("loss_schedule was \"halves\""), "{error}");
    }
    let unnamed = site
        .start("unnamed", site.settings(MethodName::Soft))
        .unwrap();
    assert!(unnamed.with_loss_schedule(halves(0.5)).is_err());
    let wrong = site.resume("other", named("halves")).unwrap();
    let mut wrong = wrong.with_loss_schedule(halves(0.4)).unwrap();
    let error = wrong.find_map(Result::err).unwrap().to_string();
    assert!(error.contains("which sum to 0.9"), "{error}");
}
