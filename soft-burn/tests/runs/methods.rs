//! What each method trains, and what it leaves unchanged.

use super::*;

/// Frozen weights are unchanged to the bit.
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

#[test]
fn ict_trains_the_new_heads_and_nothing_else() {
    let site = Site::new();
    trains_only(
        &site,
        site.settings(MethodName::Ict),
        "exit_heads.safetensors",
    );
    // Both folders load, even without soft.json, and the heads are at the same exits.
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

/// From the targets, and by distillation without targets. Every new parameter changes.
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
            // Always from the start of the data, so that the batches are the same.
            let report = trainer.step(&mut Counting::default()).unwrap();
            assert_eq!(report.exits.len(), 2);
            report.loss
        };
        let losses = [(); 6].map(|()| loss());
        assert!(losses[5] < 0.98 * losses[0], "{losses:?}");
    }
}

/// The weights of the body, the losses of its full depth and the norms of its gradients are those
/// of SFT to the bit, with clipping, accumulation, weight decay and a tied head.
#[test]
fn a_body_beside_balconies_is_trained_by_the_full_depth_alone() {
    const STEPS: usize = 100;
    const CLIP: f64 = 2.0;
    let trained = |method, distillation| {
        let settings = Site::new().settings(method);
        let settings = edited(settings, |train| {
            train.train_body = method == MethodName::Balcony;
            train.distillation = distillation;
            train.steps = STEPS as u64;
        });
        let mut settings = settings.unwrap().train;
        settings.optimizer.clip_norm = Some(CLIP);
        let mut trainer = Trainer::new(model(), settings).unwrap();
        let mut stream = Counting::default();
        let reports = [(); STEPS].map(|()| trainer.step(&mut stream).unwrap());
        (reports, body(&trainer.trained()))
    };
    let (of_sft, expected) = trained(MethodName::Sft, None);
    let clipped = of_sft.iter().filter(|report| report.gradient_norm > CLIP);
    assert!(
        (10..90).contains(&clipped.count()),
        "some steps are clipped"
    );
    let teacher = Distillation {
        share: 1.0,
        temperature: 2.0,
    };
    for distillation in [None, Some(teacher)] {
        let (reports, found) = trained(MethodName::Balcony, distillation);
        for (report, of_sft) in reports.iter().zip(&of_sft) {
            assert_eq!(report.exits.last().unwrap().loss, of_sft.exits[0].loss);
            assert_eq!(report.gradient_norm, of_sft.gradient_norm);
            assert!(report.exit_gradient_norm.unwrap() > 0.0);
        }
        let mean = |report: &StepReport| (report.exits[0].loss + report.exits[1].loss) / 2.0;
        let (first, last) = (mean(&reports[0]), mean(&reports[STEPS - 1]));
        assert!(last < first, "the exits learn: {first} to {last}");
        assert!(found == expected, "{distillation:?}");
    }
}

/// The tensors that a model has without exits of its own.
fn body(model: &Llama) -> std::collections::BTreeMap<String, Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    model
        .save_pretrained(&path, &SaveOptions::default())
        .unwrap();
    let bytes = fs::read(path.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensors = tensors.tensors().into_iter();
    tensors
        .map(|(name, view)| (name, view.data().to_vec()))
        .collect()
}

/// Asserts that the run leaves the base unchanged and changes every tensor of `parts`.
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

/// A checkpoint of a run with an adapter loads as the adapted model.
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

/// Exits that are not drawn have no effect, and blocks above the drawn exits are unchanged.
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
    // Each of the two micro-batches of a step draws its own exit.
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
