//! Refused settings, and custom loss schedules.

use super::*;

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
        |train| {
            train.balance.limit = Some(1.0);
            train.balance.combination = Combination::Project;
        },
        "gradient limit is one, and gradients that are combined otherwise",
    );
    refused(
        |train| train.balance.limit = Some(0.0),
        "gradient limit is 0",
    );
    refused(
        |train| {
            train.balance.limit = Some(1.0);
            train.sampled_exits = Some(SampledPerBatch { draws: 1, seed: 1 });
        },
        "gradient limit is one, and micro-batches without the full depth",
    );
    refused(
        |train| {
            train.balance.limit = Some(1.0);
            train.exit_weights = Some(Weights::PerExit(vec![0.5, 0.5, 0.0]));
        },
        "gradient limit is one, and micro-batches without the full depth",
    );
    refused(
        |train| {
            train.balance.combination = Combination::Project;
            train.objective = Objective::Plain;
        },
        "objective is plain, with distillation or balance",
    );
}

/// This weight for the first exit and 0.5 for the full depth; any other than 0.5 is invalid.
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
