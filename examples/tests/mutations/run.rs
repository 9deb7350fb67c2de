//! A run that was stopped, and its resumption.

use std::fs;
use std::path::Path;

use soft_burn::{Llama, LogLine, Method, Run, RunData, RunSettings, TrainSettings};
use soft_data::{Loader, LoaderConfig};

use crate::readers::cpu;
use crate::subjects::copy;

pub fn run_settings(folder: &Path) -> RunSettings {
    let exits = "2,4".parse().unwrap();
    RunSettings {
        train: TrainSettings::new(Method::soft(), exits, 4),
        validate_every: None,
        checkpoint_every: Some(2),
        keep_checkpoints: 1,
        base: folder.join("base"),
        provenance: serde_json::json!({"seed": 1}),
    }
}

pub fn run_data() -> RunData<Loader> {
    let examples = (0..6).map(|i| soft_core::Example::text(vec![1, 2 + i, 3, 4]));
    RunData {
        stream: Loader::new(
            examples.collect(),
            LoaderConfig {
                batch_size: 2,
                ..LoaderConfig::default()
            },
        )
        .unwrap(),
        validation: Vec::new(),
    }
}

/// A run that was stopped after its third step.
pub fn start(root: &Path) {
    let folder = root.join("run");
    copy(&root.join("single"), &folder.join("base"));
    let model = Llama::from_pretrained(folder.join("base"), &cpu()).unwrap();
    let mut run = Run::start(
        &folder.join("out"),
        model,
        run_settings(&folder),
        run_data(),
    )
    .unwrap();
    let lines: Vec<LogLine> = run.by_ref().take(3).collect::<Result<_, _>>().unwrap();
    assert_eq!(lines.len(), 3);
}

/// Resumes a copy of the run, since a step changes it.
pub fn resume(folder: &Path) {
    let copied = folder.join("copy");
    let _ = fs::remove_dir_all(&copied);
    copy(&folder.join("out"), &copied);
    copy(
        &folder.join("out/checkpoints/step-000002"),
        &copied.join("checkpoints/step-000002"),
    );
    if let Ok(mut run) = Run::resume(&copied, run_settings(folder), run_data(), &cpu()) {
        let _ = run.next();
    }
}
