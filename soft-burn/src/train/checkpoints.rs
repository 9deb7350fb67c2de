//! The checkpoints of a run: model folders with optimizer state and data position.
//!
//! Checkpoints, such as `step-000100`, are created and removed atomically.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use soft_core::StreamPosition;

use crate::error::Error;
use crate::files::adapter_chain::ADAPTER;
use crate::files::folder::{exists, hidden_for, new_folder, read_json, remove_folder, write_json};
use crate::io::pretrained::SaveOptions;
use crate::model::llama::Llama;
use crate::model::parameters::lengths;
use crate::train::optimizer::NamedAdamW;
use crate::train::settings::TrainSettings;
use crate::train::trainer::Trainer;

const OPTIMIZER: &str = "optimizer.safetensors";
const PROGRESS: &str = "progress.json";

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Progress {
    steps_done: u64,
    position: StreamPosition,
    /// Number of steps of each parameter's moments.
    moments: BTreeMap<String, usize>,
    /// CRC-32C of the fields above.
    checksum: String,
}

impl Progress {
    fn of(trainer: &Trainer, steps_done: u64, position: StreamPosition) -> Self {
        let moments = trainer.optimizer().steps();
        let text = format!("{steps_done} {position:?} {moments:?}");
        Self {
            steps_done,
            position,
            moments,
            checksum: format!("{:08x}", crc32c::crc32c(text.as_bytes())),
        }
    }
}

/// The folder that holds a run's checkpoints; it need not exist yet.
#[derive(Debug)]
pub(crate) struct Checkpoints(pub PathBuf);

impl Checkpoints {
    /// Writes the trainer's state and the data position of its next batch, unless that step already
    /// has a checkpoint. Then removes all but the newest `keep` checkpoints.
    pub fn save(
        &self,
        trainer: &Trainer,
        position: StreamPosition,
        options: &SaveOptions,
        keep: usize,
    ) -> Result<PathBuf, Error> {
        let steps_done = trainer.steps_done();
        let path = self.0.join(format!("step-{steps_done:06}"));
        if !exists(&path)? {
            new_folder(&path, |partial| {
                trainer.check_weights()?;
                trainer.snapshot().write_into(partial, options)?;
                if let Some(adapter) = trainer.model().adapter()? {
                    adapter.save(partial.join(ADAPTER), options.companions)?;
                }
                trainer.optimizer().save(&partial.join(OPTIMIZER))?;
                let progress = Progress::of(trainer, steps_done, position);
                write_json(&partial.join(PROGRESS), &progress)
            })?;
        }
        let all = self.list()?;
        for (_, old) in &all[..all.len().saturating_sub(keep)] {
            remove_folder(old)?;
        }
        Ok(path)
    }

    /// Step and folder of the newest checkpoint.
    pub fn newest(&self) -> Result<Option<(u64, PathBuf)>, Error> {
        Ok(self.list()?.pop())
    }

    /// Loads the checkpoint of `step` from `folder`.
    pub fn load(
        step: u64,
        folder: &Path,
        settings: &TrainSettings,
        device: &Device,
    ) -> Result<(Trainer, StreamPosition), Error> {
        let damaged = |path: &Path, reason| Error::DamagedCheckpoint {
            path: path.to_owned(),
            reason,
        };
        let progress_path = folder.join(PROGRESS);
        let progress: Progress = read_json(&progress_path)?;
        if progress.steps_done != step {
            let reason = format!(
                "it is of step {}, its folder of step {step}",
                progress.steps_done
            );
            return Err(damaged(&progress_path, reason));
        }
        let model = Llama::with_adapter_apart(folder, device)?;
        let path = folder.join(OPTIMIZER);
        let optimizer = NamedAdamW::load(settings.optimizer, &path, device)?;
        let trainer = Trainer::at_step(model, settings.clone(), optimizer, step)?;
        let problem = trainer.optimizer().problem(&lengths(trainer.model()), step);
        if let Some(reason) = problem {
            return Err(damaged(&path, reason));
        }
        if progress != Progress::of(&trainer, step, progress.position) {
            let reason =
                format!("its checksum, or the moments in {OPTIMIZER}, are not of what it says");
            return Err(damaged(&progress_path, reason));
        }
        Ok((trainer, progress.position))
    }

    /// Removes partial checkpoints left by a crash.
    pub fn sweep(&self) -> Result<(), Error> {
        for path in self.entries()? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if hidden_for(&name).is_some_and(|of| step_of(of).is_some()) {
                let removed = if path.is_dir() {
                    fs::remove_dir_all(&path)
                } else {
                    fs::remove_file(&path)
                };
                removed.map_err(Error::io("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Complete checkpoints with their steps, oldest first.
    fn list(&self) -> Result<Vec<(u64, PathBuf)>, Error> {
        let step = |path: &PathBuf| step_of(path.file_name()?.to_str()?);
        let mut found: Vec<(u64, PathBuf)> = self
            .entries()?
            .into_iter()
            .filter_map(|path| Some((step(&path)?, path)))
            .collect();
        found.sort();
        Ok(found)
    }

    fn entries(&self) -> Result<Vec<PathBuf>, Error> {
        if !exists(&self.0)? {
            return Ok(Vec::new());
        }
        let entries = fs::read_dir(&self.0).map_err(Error::io("read", &self.0))?;
        entries
            .map(|entry| Ok(entry.map_err(Error::io("read", &self.0))?.path()))
            .collect()
    }
}

fn step_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("step-")?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number)
}
