//! Continued runs: one process at a time, complete checkpoints, more steps at a constant rate.

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use super::*;

fn constant(site: &Site, steps: u64) -> RunSettings {
    let mut settings = site.settings(MethodName::Soft);
    settings.train.schedule.decay = Decay::Constant;
    settings.train.steps = steps;
    settings
}

#[test]
fn a_finished_run_at_a_constant_rate_goes_on_with_more_steps() {
    let site = Site::new();
    // Regular checkpoints include step 6 but not 7.
    for (name, first) in [("even", 6), ("odd", 7)] {
        let whole = site.whole(&format!("{name}-whole"), constant(&site, 10));
        finish(site.start(name, constant(&site, first)).unwrap());
        let finished = fs::read(site.path(name).join("model/model.safetensors")).unwrap();
        finish(site.resume(name, constant(&site, 10)).unwrap());
        let (mut log, weights) = outcome(&site.path(name));
        assert!(weights == whole.1, "{name}: the weights differ");
        // The end of the first run was validated; the whole run has no validation at that step.
        let at_first_end =
            |line: &LogLine| matches!(line, LogLine::Validation { step, .. } if *step == first);
        let is_due = first % 3 == 0;
        log.retain(|line| is_due || !at_first_end(line));
        assert_eq!(log, whole.0, "{name}");
        let kept = site
            .path(name)
            .join(format!("model-{first:06}/model.safetensors"));
        assert!(
            fs::read(kept).unwrap() == finished,
            "{name}: the first model is lost"
        );
    }
}

#[test]
fn what_is_refused_leaves_a_finished_run_as_it_is() {
    let site = Site::new();
    finish(site.start("run", constant(&site, 6)).unwrap());
    let progress = site
        .path("run")
        .join("checkpoints/step-000006/progress.json");
    let whole = fs::read_to_string(&progress).unwrap();
    fs::write(&progress, "{}").unwrap();
    assert!(site.resume("run", constant(&site, 8)).is_err());
    assert!(site.path("run").join("model").exists());
    let error = site
        .resume("run", constant(&site, 6))
        .unwrap_err()
        .to_string();
    assert!(error.contains("the run is finished"), "{error}");
    fs::write(&progress, whole).unwrap();
    // A folder under the name for the first model is not replaced.
    fs::create_dir(site.path("run").join("model-000006")).unwrap();
    let error = site.resume("run", constant(&site, 8)).unwrap_err();
    assert!(matches!(error, Error::OutputExists { .. }), "{error}");
    assert!(site.path("run").join("model").exists());
}

/// Otherwise a file that cannot be copied would only be noticed when the model is saved.
#[test]
fn companions_are_looked_at_before_the_first_step() {
    let site = Site::new();
    fs::create_dir(site.path("base").join("added_tokens.json")).unwrap();
    let started = site.start("run", site.settings(MethodName::Soft));
    let error = started.unwrap_err().to_string();
    assert!(error.contains("added_tokens.json"), "{error}");
    assert!(!site.path("run").exists());
}

#[test]
fn a_cosine_is_not_stretched() {
    let site = Site::new();
    finish(site.start("run", site.settings(MethodName::Soft)).unwrap());
    let mut more = site.settings(MethodName::Soft);
    more.train.steps += 2;
    let error = site.resume("run", more).unwrap_err().to_string();
    assert!(error.contains("train.steps was 6"), "{error}");
    assert!(
        error.contains("a cosine is laid out for its steps"),
        "{error}"
    );
    assert!(site.path("run").join("model").exists());
    let fewer = constant(&site, 4);
    finish(site.start("constant", constant(&site, 6)).unwrap());
    let error = site.resume("constant", fewer).unwrap_err().to_string();
    assert!(error.contains("train.steps was 6"), "{error}");
    assert!(
        error.contains("can be given more steps, not fewer"),
        "{error}"
    );
}

#[test]
fn one_process_at_a_time_works_on_a_run() {
    let site = Site::new();
    let mut run = site.start("run", site.settings(MethodName::Soft)).unwrap();
    draw(&mut run, 3);
    let error = site
        .resume("run", site.settings(MethodName::Soft))
        .unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    // The refused call changed nothing.
    finish(run);
    assert_eq!(
        outcome(&site.path("run")),
        site.undisturbed("whole", MethodName::Soft)
    );
}

#[test]
fn what_others_put_among_the_checkpoints_stays() {
    let site = Site::new();
    let mut run = site.start("run", site.settings(MethodName::Soft)).unwrap();
    draw(&mut run, 6);
    drop(run);
    let checkpoints = site.path("run").join("checkpoints");
    for name in [".DS_Store", ".nfs000001", "notes.txt"] {
        fs::write(checkpoints.join(name), "x").unwrap();
    }
    for name in [
        ".mine",
        ".ipynb_checkpoints",
        "best",
        ".step-000002.partial",
        ".step-000001.removed",
    ] {
        fs::create_dir(checkpoints.join(name)).unwrap();
        fs::write(checkpoints.join(name).join("file"), "x").unwrap();
    }
    finish(site.resume("run", site.settings(MethodName::Soft)).unwrap());
    let mut left: Vec<String> = fs::read_dir(&checkpoints)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    left.sort();
    let wanted = [
        ".DS_Store",
        ".ipynb_checkpoints",
        ".mine",
        ".nfs000001",
        "best",
        "notes.txt",
        "step-000004",
        "step-000006",
    ];
    assert_eq!(left, wanted);
}

#[test]
fn checkpoints_that_contradict_themselves_are_refused() {
    let site = Site::new();
    let stopped = |name: &str| {
        let mut run = site.start(name, site.settings(MethodName::Soft)).unwrap();
        draw(&mut run, 4);
        let folder = run.checkpoint().unwrap();
        drop(run);
        folder
    };
    let refused = |name: &str, parts: [&str; 2]| {
        let error = site
            .resume(name, site.settings(MethodName::Soft))
            .unwrap_err();
        let error = error.to_string();
        for part in parts {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    };

    let progress = stopped("progress").join("progress.json");
    let text = fs::read_to_string(&progress).unwrap();
    fs::write(
        &progress,
        text.replace("\"steps_done\": 3", "\"steps_done\": 2"),
    )
    .unwrap();
    refused(
        "progress",
        ["it is of step 2, its folder of step 3", "damaged"],
    );

    let moments = stopped("steps").join("optimizer.safetensors");
    let mut run = site
        .start("longer", site.settings(MethodName::Soft))
        .unwrap();
    draw(&mut run, 6);
    let longer = run.checkpoint().unwrap();
    fs::copy(longer.join("optimizer.safetensors"), moments).unwrap();
    refused(
        "steps",
        ["steps, the checkpoint of 3", "optimizer.safetensors"],
    );

    let moments = stopped("nan").join("optimizer.safetensors");
    let mut bytes = fs::read(&moments).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&moments, bytes).unwrap();
    refused("nan", ["optimizer.safetensors", "holds NaN"]);

    // Moments of some weights only, and negative mean squares.
    let moments = stopped("some").join("optimizer.safetensors");
    let bytes = fs::read(&moments).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let norm = |name: &str| name.ends_with(".model.norm.weight");
    let some = tensors.iter().filter(|(name, _)| !norm(name));
    fs::write(&moments, safetensors::serialize(some, None).unwrap()).unwrap();
    refused(
        "some",
        ["progress.json", "moments in optimizer.safetensors"],
    );
    let moments = stopped("negative").join("optimizer.safetensors");
    let bytes = fs::read(&moments).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let minus: Vec<u8> = (-1.0_f32).to_le_bytes().repeat(8);
    let changed = tensors.iter().map(|(name, tensor)| {
        let data = match name.starts_with("exp_avg_sq.") && norm(name) {
            true => &minus[..],
            false => tensor.data(),
        };
        let shape = tensor.shape().to_vec();
        (name, TensorView::new(tensor.dtype(), shape, data).unwrap())
    });
    fs::write(&moments, safetensors::serialize(changed, None).unwrap()).unwrap();
    refused("negative", ["exp_avg_sq", "holds -1"]);

    // Another position in the data.
    let progress = stopped("place").join("progress.json");
    let text = fs::read_to_string(&progress).unwrap();
    let other = text.replace("\"epoch\": ", "\"epoch\": 1");
    assert_ne!(text, other);
    fs::write(&progress, other).unwrap();
    refused("place", ["progress.json", "checksum"]);

    let moments = stopped("others").join("optimizer.safetensors");
    let mut run = site.start("ict", site.settings(MethodName::Ict)).unwrap();
    draw(&mut run, 4);
    let other = run.checkpoint().unwrap().join("optimizer.safetensors");
    fs::copy(other, moments).unwrap();
    refused("others", ["moments of exit_heads", "which the model lacks"]);
}

#[test]
fn a_warm_up_that_never_ends_and_steps_beyond_memory_are_refused() {
    let site = Site::new();
    let refused = |edit: fn(&mut FlatSettings), part: &str| {
        let settings = edited(site.settings(MethodName::Soft), edit).unwrap();
        let error = site.start("run", settings).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(
        |train| train.schedule.warmup_steps = 7,
        "7 of 6 steps, which never reach the rate",
    );
    refused(
        |train| train.accumulation = 1 << 32,
        "accumulation is 4294967296",
    );
    refused(
        |train| train.lora = Some(Lora::new(1 << 32)),
        "lora rank is 4294967296",
    );
    refused(
        |train| train.lora = Some(Lora::new(9)),
        "lora rank is 9 for a weight of width 8",
    );
    assert!(!site.path("run").exists());
}
