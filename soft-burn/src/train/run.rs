//! A training run on disk: log, checkpoints, finished model, and resumption.
//!
//! ```text
//! OUT/run.json                 settings of the run, written once
//! OUT/log.jsonl                one line per step, one per validation
//! OUT/checkpoints/step-000100/ a model folder, plus optimizer.safetensors and progress.json
//! OUT/model/                   the finished model
//! OUT/adapter/                 its adapter, when one was trained; the model has it merged
//! OUT/run.lock                 held by the process that works on the run
//! ```
//!
//! A resumed run continues from the newest checkpoint exactly as if it had not been stopped. Its
//! state consists of weights, moments, step and data position.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde_json::Value;
use soft_core::{Batch, BatchStream, LossSchedule};

use crate::device_errors::guarded;
use crate::error::Error;
use crate::files::adapter_chain::ADAPTER;
use crate::files::folder::{
    Lock, exists, new_folder, read_json, remove_folder, replace_json, write_json,
};
use crate::io::pretrained::{CompanionFile, SaveOptions, SoftInfo, check_companions};
use crate::model::llama::Llama;
use crate::train::checkpoints::Checkpoints;
use crate::train::log::{Log, LogLine};
use crate::train::run_settings::{RunSettings, difference, more_steps};
use crate::train::schedule::Decay;
use crate::train::trainer::Trainer;

/// Training and validation data of a run.
#[derive(Debug)]
pub struct RunData<S> {
    /// Training batches.
    pub stream: S,
    /// Validation batches; if empty, there is no validation.
    pub validation: Vec<Batch>,
}

/// A training run, as an iterator over its log that does the work on demand.
///
/// Every item is one training step or one validation. Log and checkpoints are written in between.
/// The caller may stop at any item. After an error there are no more items.
#[derive(Debug)]
pub struct Run<S> {
    trainer: Trainer,
    data: RunData<S>,
    settings: RunSettings,
    folder: PathBuf,
    log: Log,
    last_checkpoint: Option<u64>,
    /// Step whose validation is due; `None` when a training step is next.
    validation_due: Option<u64>,
    failed: bool,
    /// Files for the model's folder in addition to those of the base.
    files: Vec<CompanionFile>,
    /// Held for the lifetime of the run, so that no other process works on its folder.
    _lock: Lock,
}

impl<S: BatchStream> Run<S> {
    /// Starts a run in the new folder `out`.
    ///
    /// # Errors
    /// [`Error::OutputExists`] when `out` exists; when model, settings and exits do not match.
    pub fn start(
        out: &Path,
        model: Llama,
        settings: RunSettings,
        data: RunData<S>,
    ) -> Result<Self, Error> {
        settings.validate()?;
        check_companions(&settings.base)?;
        let trainer = Trainer::new(model, settings.train.clone())?;
        new_folder(out, |partial| {
            Log::create(&partial.join(LOG))?;
            write_json(&partial.join(RUN), &settings)
        })?;
        Ok(Self {
            _lock: Lock::take(&out.join(LOCK), out)?,
            trainer,
            validation_due: (!data.validation.is_empty()).then_some(0),
            data,
            settings,
            folder: out.to_owned(),
            log: Log::open(out.join(LOG))?,
            last_checkpoint: None,
            failed: false,
            files: Vec::new(),
        })
    }

    /// Continues the run in `out` from its newest checkpoint, on `device`. Without a checkpoint it
    /// starts again with the weights of `settings.base`.
    ///
    /// A run with a constant learning rate, finished or not, can be extended to more steps, with
    /// the same result as with that number of steps from the start. Its finished model is kept
    /// under another name, such as `model-000200` for 200 steps.
    ///
    /// # Errors
    /// When `out` holds no run, one with other settings, or a finished one; when another process
    /// works on it; when the checkpoint is damaged.
    pub fn resume(
        out: &Path,
        settings: RunSettings,
        mut data: RunData<S>,
        device: &Device,
    ) -> Result<Self, Error> {
        settings.validate()?;
        let refuse = |reason| Error::Resume {
            path: out.to_owned(),
            reason,
        };
        // A folder without run.json is not a run and gets no lock.
        read_json::<Value>(&out.join(RUN))?;
        let lock = Lock::take(&out.join(LOCK), out)?;
        let before: Value = read_json(&out.join(RUN))?;
        let more = more_steps(&before, &settings);
        if let Some(reason) = difference(&before, &settings, more) {
            return Err(refuse(reason));
        }
        let model = out.join(MODEL);
        if more.is_none() && exists(&model)? {
            let reason = format!(
                "the run is finished; its model is {}; a run at a constant rate goes on when it is given more steps",
                model.display()
            );
            return Err(refuse(reason));
        }
        check_companions(&settings.base)?;
        let checkpoints = Checkpoints(out.join(CHECKPOINTS));
        checkpoints.sweep()?;
        let newest = checkpoints.newest()?;
        let trainer = match &newest {
            None => Trainer::new(
                Llama::from_pretrained(&settings.base, device)?,
                settings.train.clone(),
            )?,
            Some((step, folder)) => {
                let (trainer, position) =
                    Checkpoints::load(*step, folder, &settings.train, device)?;
                data.stream
                    .seek(position)
                    .map_err(|source| Error::Data(Box::new(source)))?;
                trainer
            }
        };
        let steps_done = trainer.steps_done();
        Log::read(&out.join(LOG))?;
        // All checks of the settings have passed; the files of the run are changed from here on.
        if let Some(steps) = more {
            reopen(out, steps, &settings)?;
        }
        let (log, lines) = Log::rewind(out.join(LOG), steps_done)?;
        let validated = |line: &LogLine| matches!(line, LogLine::Validation { step, .. } if *step == steps_done);
        let mut run = Self {
            trainer,
            data,
            settings,
            folder: out.to_owned(),
            log,
            last_checkpoint: newest.map(|(step, _)| step),
            validation_due: None,
            failed: false,
            files: Vec::new(),
            _lock: lock,
        };
        // The run may have been killed between a step and its validation.
        if run.is_validated(steps_done) && !lines.iter().any(validated) {
            run.validation_due = Some(steps_done);
        }
        Ok(run)
    }

    /// Uses a custom schedule ([`Trainer::with_loss_schedule`]); a resumed run needs it again.
    ///
    /// # Errors
    /// When the settings do not name a loss schedule.
    pub fn with_loss_schedule(
        mut self,
        schedule: Box<dyn LossSchedule + Send>,
    ) -> Result<Self, Error> {
        self.trainer = self.trainer.with_loss_schedule(schedule)?;
        Ok(self)
    }

    /// Adds `files` to checkpoints and the finished model, replacing the base's of the same name.
    pub fn with_files(mut self, files: Vec<CompanionFile>) -> Self {
        self.files = files;
        self
    }

    /// Computes a share of every step on `further` devices ([`Trainer::with_devices`]). A run may
    /// be resumed on other devices.
    ///
    /// # Errors
    /// When a device does not compute with the weights' number type.
    pub fn with_devices(mut self, further: Vec<Device>) -> Result<Self, Error> {
        self.trainer = self.trainer.with_devices(further)?;
        Ok(self)
    }

    /// Compares the device with the CPU now and then ([`Trainer::with_canary`]).
    pub fn with_canary(mut self, every: u64) -> Self {
        self.trainer = self.trainer.with_canary(every);
        self
    }

    /// The trainer, with model and settings.
    pub fn trainer(&self) -> &Trainer {
        &self.trainer
    }

    /// Writes a checkpoint of the current step, unless there is one, and removes old ones.
    ///
    /// # Errors
    /// I/O errors; weights that are not finite. On failure the older checkpoints remain.
    pub fn checkpoint(&mut self) -> Result<PathBuf, Error> {
        let home = self.trainer.model().device();
        guarded(&home, || self.write_checkpoint())
    }

    fn write_checkpoint(&mut self) -> Result<PathBuf, Error> {
        self.log.sync()?;
        let checkpoints = Checkpoints(self.folder.join(CHECKPOINTS));
        let soft = self.soft_info();
        let (position, keep) = (self.data.stream.position(), self.settings.keep_checkpoints);
        let path = checkpoints.save(&self.trainer, position, &self.save_options(&soft), keep)?;
        self.last_checkpoint = Some(self.trainer.steps_done());
        Ok(path)
    }

    /// Writes the finished model to `OUT/model` and returns its folder and the trainer.
    ///
    /// # Errors
    /// I/O errors; weights that are not finite.
    pub fn finish(self) -> Result<(PathBuf, Trainer), Error> {
        let (home, newest) = (self.trainer.model().device(), self.last_checkpoint);
        let path = guarded(&home, || self.write_model());
        let path = path.map_err(|error| error.with_checkpoint(newest))?;
        Ok((path, self.trainer))
    }

    fn write_model(&self) -> Result<PathBuf, Error> {
        let path = self.folder.join(MODEL);
        let soft = self.soft_info();
        self.trainer.check_weights()?;
        if let Some(adapter) = self.trainer.model().adapter()? {
            // Left by a run that was stopped between writing adapter and model.
            let folder = self.folder.join(ADAPTER);
            if exists(&folder)? {
                remove_folder(&folder)?;
            }
            adapter.save(&folder, Some(&self.settings.base))?;
        }
        let trained = self.trainer.trained();
        trained.save_pretrained(&path, &self.save_options(&soft))?;
        Ok(path)
    }

    fn soft_info(&self) -> SoftInfo {
        let train = &self.settings.train;
        SoftInfo {
            exits: train.exits.clone(),
            method: train.method.name().as_str().to_owned(),
            provenance: serde_json::json!({
                "base": self.settings.base,
                "run": self.settings.provenance,
                "steps": self.trainer.steps_done(),
                "soft": env!("CARGO_PKG_VERSION"),
            }),
            calibrated: Vec::new(),
        }
    }

    fn save_options<'a>(&'a self, soft: &'a SoftInfo) -> SaveOptions<'a> {
        SaveOptions {
            soft: Some(soft),
            companions: Some(&self.settings.base),
            files: &self.files,
            ..SaveOptions::default()
        }
    }

    fn advance(&mut self) -> Result<Option<LogLine>, Error> {
        if let Some(step) = self.validation_due {
            let exits = self.trainer.validate(&self.data.validation)?;
            self.validation_due = None;
            return self.logged(LogLine::Validation { step, exits }).map(Some);
        }
        if self.trainer.steps_done() >= self.settings.train.steps {
            return Ok(None);
        }
        let report = self.trainer.step(&mut self.data.stream)?;
        let step = report.step;
        let line = self.logged(LogLine::Train(report))?;
        if due(self.settings.checkpoint_every, step) || self.may_go_on_from(step) {
            self.checkpoint()?;
        }
        self.validation_due = self.is_validated(step).then_some(step);
        Ok(Some(line))
    }

    /// Whether the run ends at `step` and can be extended, which requires a checkpoint.
    fn may_go_on_from(&self, step: u64) -> bool {
        let train = &self.settings.train;
        let is_end = step == train.steps && train.schedule.decay == Decay::Constant;
        is_end && self.settings.checkpoint_every.is_some()
    }

    /// Whether the run is validated after `step`: at its start and end, and at the set interval.
    fn is_validated(&self, step: u64) -> bool {
        let at_an_end = step == 0 || step == self.settings.train.steps;
        !self.data.validation.is_empty() && (at_an_end || due(self.settings.validate_every, step))
    }

    fn logged(&mut self, line: LogLine) -> Result<LogLine, Error> {
        self.log.write(&line)?;
        Ok(line)
    }
}

impl<S: BatchStream> Iterator for Run<S> {
    type Item = Result<LogLine, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let home = self.trainer.model().device();
        let item = guarded(&home, || self.advance())
            .map_err(|error| error.with_checkpoint(self.last_checkpoint));
        self.failed = item.is_err();
        item.transpose()
    }
}

const RUN: &str = "run.json";
const LOG: &str = "log.jsonl";
const LOCK: &str = "run.lock";
const CHECKPOINTS: &str = "checkpoints";
const MODEL: &str = "model";

fn due(every: Option<u64>, step: u64) -> bool {
    step > 0 && every.is_some_and(|every| step.is_multiple_of(every))
}

/// Extends a run of `steps` steps to those of `settings` and keeps what it had finished.
fn reopen(out: &Path, steps: u64, settings: &RunSettings) -> Result<(), Error> {
    for name in [MODEL, ADAPTER] {
        let (finished, kept) = (out.join(name), out.join(format!("{name}-{steps:06}")));
        if exists(&finished)? {
            if exists(&kept)? {
                return Err(Error::OutputExists { path: kept });
            }
            fs::rename(&finished, &kept).map_err(Error::io("rename", &finished))?;
        }
    }
    // Last, so that a run that is killed before it can be extended again.
    replace_json(&out.join(RUN), settings)
}
