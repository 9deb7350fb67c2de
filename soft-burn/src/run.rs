//! A training run on disk: log, checkpoints, the finished model, and how to go on after a stop.
//!
//! ```text
//! OUT/run.json                 settings of the run, written once
//! OUT/log.jsonl                one line per step, one per validation
//! OUT/checkpoints/step-000100/ a model folder, plus optimizer.safetensors and progress.json
//! OUT/model/                   the finished model
//! ```
//!
//! A resumed run continues from the newest checkpoint exactly as if it had never stopped: weights,
//! moments, step and place in the data are all the state there is. Lines that the log got after
//! that checkpoint are cut off, since those steps are taken again.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use soft_core::{Batch, BatchStream, StreamPosition};

use crate::folder::{new_folder, read_json, write_json};
use crate::optimizer::NamedAdamW;
use crate::pretrained::{SaveOptions, SoftInfo};
use crate::trainer::{ExitLoss, StepReport, TrainSettings, Trainer};
use crate::{Error, Llama};

/// What a run writes and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSettings {
    /// The training itself.
    pub train: TrainSettings,
    /// Steps between validations, each logged; none without. The last step is always validated.
    pub validate_every: Option<u64>,
    /// Steps between checkpoints; none without.
    pub checkpoint_every: Option<u64>,
    /// How many checkpoints to keep, the newest. At least 1.
    pub keep_checkpoints: usize,
    /// Model folder the run starts from: source of the tokenizer files.
    pub base: PathBuf,
    /// Whatever else identifies the run (data, seed, ...); a resumed run must agree on it.
    pub provenance: Value,
}

/// Where a checkpoint stands.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Progress {
    steps_done: u64,
    position: StreamPosition,
}

/// One line of `log.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLine {
    /// An optimiser step.
    Train(StepReport),
    /// Loss at every exit after some step.
    Validation {
        /// The step after which it was measured; 0 is before training.
        step: u64,
        /// Mean loss per exit.
        exits: Vec<ExitLoss>,
    },
}

impl LogLine {
    fn step(&self) -> u64 {
        match self {
            Self::Train(report) => report.step,
            Self::Validation { step, .. } => *step,
        }
    }
}

/// A training run: an iterator over its log, which does the work as it is drawn from.
///
/// Every item is one step taken or one validation; the caller shows it, or stops. Log and
/// checkpoints are written on the way.
#[derive(Debug)]
pub struct Run<S> {
    trainer: Trainer,
    stream: S,
    validation: Vec<Batch>,
    settings: RunSettings,
    folder: PathBuf,
    log: File,
    last_checkpoint: u64,
    /// Step after which the next validation is due; `None` when it was done.
    validation_due: Option<u64>,
    failed: bool,
    /// Place in the data before the step that is being taken.
    step_position: StreamPosition,
}

impl<S: BatchStream> Run<S> {
    /// Starts a run in the new folder `out`.
    ///
    /// # Errors
    /// [`Error::OutputExists`] when `out` is there already; when model, settings and exits do not
    /// fit together.
    pub fn start(
        out: &Path,
        model: Llama,
        settings: RunSettings,
        stream: S,
        validation: Vec<Batch>,
    ) -> Result<Self, Error> {
        let trainer = Trainer::new(model, settings.train.clone())?;
        new_folder(out, |partial| {
            let log = partial.join(LOG);
            File::create(&log).map_err(Error::io("create", &log))?;
            write_json(&partial.join(RUN), &settings)
        })?;
        let log = open_log(out)?;
        let validation_due = (!validation.is_empty()).then_some(0);
        let folder = out.to_owned();
        let step_position = stream.position();
        Ok(Self {
            trainer,
            stream,
            validation,
            settings,
            folder,
            log,
            last_checkpoint: 0,
            validation_due,
            failed: false,
            step_position,
        })
    }

    /// Continues the run in `out` from its newest checkpoint, or from its start when it has none.
    /// `base` is the model the run was started from.
    ///
    /// # Errors
    /// When `out` holds no run, or one with other settings.
    pub fn resume(
        out: &Path,
        base: impl FnOnce() -> Result<Llama, Error>,
        settings: RunSettings,
        mut stream: S,
        validation: Vec<Batch>,
        device: &Device,
    ) -> Result<Self, Error> {
        let before: RunSettings = read_json(&out.join(RUN))?;
        if let Some(reason) = difference(&before, &settings) {
            return Err(Error::Resume {
                path: out.to_owned(),
                reason,
            });
        }
        let newest = checkpoints(out)?.pop();
        let (trainer, steps_done) = match newest {
            None => (Trainer::new(base()?, settings.train.clone())?, 0),
            Some((steps_done, folder)) => {
                let progress: Progress = read_json(&folder.join(PROGRESS))?;
                stream
                    .seek(progress.position)
                    .map_err(|source| Error::Data(Box::new(source)))?;
                (
                    load_trainer(&folder, &settings.train, steps_done, device)?,
                    steps_done,
                )
            }
        };
        truncate_log(out, steps_done)?;
        let log = open_log(out)?;
        let due = due(settings.validate_every, steps_done) || steps_done == settings.train.steps;
        let logged = logged_validation(out, steps_done)?;
        let validation_due =
            (!validation.is_empty() && (due || steps_done == 0) && !logged).then_some(steps_done);
        let (folder, last_checkpoint) = (out.to_owned(), steps_done);
        let step_position = stream.position();
        Ok(Self {
            trainer,
            stream,
            validation,
            settings,
            folder,
            log,
            last_checkpoint,
            validation_due,
            failed: false,
            step_position,
        })
    }

    /// The trainer, with model and settings.
    pub fn trainer(&self) -> &Trainer {
        &self.trainer
    }

    /// Writes a checkpoint of the steps done so far, unless there is one, and removes old ones.
    ///
    /// # Errors
    /// I/O errors. A checkpoint that was not written whole is not there.
    pub fn checkpoint(&mut self) -> Result<PathBuf, Error> {
        let steps_done = self.trainer.steps_done();
        let path = self
            .folder
            .join(CHECKPOINTS)
            .join(format!("step-{steps_done:06}"));
        if !path.exists() {
            let progress = Progress {
                steps_done,
                position: self.stream.position(),
            };
            let soft = self.soft_info();
            new_folder(&path, |partial| {
                let model = self.trainer.trained();
                model.write_into(partial, &self.save_options(&soft))?;
                self.trainer.optimizer().save(&partial.join(OPTIMIZER))?;
                write_json(&partial.join(PROGRESS), &progress)
            })?;
        }
        self.last_checkpoint = steps_done;
        let all = checkpoints(&self.folder)?;
        let surplus = all
            .len()
            .saturating_sub(self.settings.keep_checkpoints.max(1));
        for (_, old) in &all[..surplus] {
            fs::remove_dir_all(old).map_err(Error::io("remove", old))?;
        }
        Ok(path)
    }

    /// Writes the finished model to `OUT/model`, or leaves it when it is there.
    ///
    /// # Errors
    /// I/O errors.
    pub fn finish(self) -> Result<(PathBuf, Trainer), Error> {
        let path = self.folder.join(MODEL);
        if !path.exists() {
            let soft = self.soft_info();
            self.trainer
                .trained()
                .save_pretrained(&path, &self.save_options(&soft))?;
        }
        Ok((path, self.trainer))
    }

    fn soft_info(&self) -> SoftInfo {
        let train = &self.settings.train;
        SoftInfo {
            exits: train.exits.clone(),
            method: train.method.name().to_owned(),
            provenance: serde_json::json!({
                "base": self.settings.base,
                "run": self.settings.provenance,
                "steps": self.trainer.steps_done(),
                "soft": env!("CARGO_PKG_VERSION"),
            }),
        }
    }

    fn save_options<'a>(&'a self, soft: &'a SoftInfo) -> SaveOptions<'a> {
        SaveOptions {
            soft: Some(soft),
            companions: Some(&self.settings.base),
            ..SaveOptions::default()
        }
    }

    /// The next validation or step.
    fn advance(&mut self) -> Result<Option<LogLine>, Error> {
        if let Some(step) = self.validation_due.take() {
            let exits = self.trainer.validate(&self.validation)?;
            let line = LogLine::Validation { step, exits };
            self.write_log(&line)?;
            return Ok(Some(line));
        }
        let total = self.settings.train.steps;
        if self.trainer.steps_done() >= total {
            return Ok(None);
        }
        self.step_position = self.stream.position();
        let report = self.trainer.step(&mut self.stream)?;
        let step = report.step;
        let line = LogLine::Train(report);
        self.write_log(&line)?;
        if due(self.settings.checkpoint_every, step) {
            self.checkpoint()?;
        }
        if !self.validation.is_empty() && (due(self.settings.validate_every, step) || step == total)
        {
            self.validation_due = Some(step);
        }
        Ok(Some(line))
    }

    fn write_log(&mut self, line: &LogLine) -> Result<(), Error> {
        let path = self.folder.join(LOG);
        let mut text = serde_json::to_string(line).map_err(Error::json(&path))?;
        text.push('\n');
        self.log
            .write_all(text.as_bytes())
            .map_err(Error::io("write", &path))
    }

    /// A number that is not finite ends the run, but the steps before it are good: they are saved
    /// before the error is reported.
    fn save_before_failing(&mut self, error: Error) -> Error {
        let not_finite = matches!(
            error,
            Error::LossNotFinite { .. } | Error::GradientNotFinite { .. }
        );
        let unsaved = self.trainer.steps_done() > self.last_checkpoint;
        if not_finite
            && unsaved
            && let Err(failure) = self.rewind_and_checkpoint()
        {
            return failure;
        }
        let last = self.last_checkpoint;
        match error {
            Error::LossNotFinite {
                step, exit, value, ..
            } => Error::LossNotFinite {
                step,
                exit,
                value,
                checkpoint: last,
            },
            Error::GradientNotFinite {
                step,
                tensor,
                losses,
                ..
            } => Error::GradientNotFinite {
                step,
                tensor,
                losses,
                checkpoint: last,
            },
            other => other,
        }
    }

    /// The failed step has read from the stream; the checkpoint must stand before those batches.
    fn rewind_and_checkpoint(&mut self) -> Result<(), Error> {
        self.stream
            .seek(self.step_position)
            .map_err(|source| Error::Data(Box::new(source)))?;
        self.checkpoint().map(|_| ())
    }
}

impl<S: BatchStream> Iterator for Run<S> {
    type Item = Result<LogLine, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let item = self
            .advance()
            .map_err(|error| self.save_before_failing(error));
        self.failed = item.is_err();
        item.transpose()
    }
}

const RUN: &str = "run.json";
const LOG: &str = "log.jsonl";
const CHECKPOINTS: &str = "checkpoints";
const MODEL: &str = "model";
const OPTIMIZER: &str = "optimizer.safetensors";
const PROGRESS: &str = "progress.json";

fn due(every: Option<u64>, step: u64) -> bool {
    step > 0 && every.is_some_and(|every| step.is_multiple_of(every))
}

fn load_trainer(
    folder: &Path,
    settings: &TrainSettings,
    steps_done: u64,
    device: &Device,
) -> Result<Trainer, Error> {
    let model = Llama::from_pretrained(folder, device)?;
    let moments = folder.join(OPTIMIZER);
    let optimizer = NamedAdamW::load(settings.optimizer, steps_done, &moments, device)?;
    Trainer::at_step(model, settings.clone(), optimizer, steps_done)
}

/// Finished checkpoints of a run, oldest first, each with its step.
fn checkpoints(out: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let folder = out.join(CHECKPOINTS);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).map_err(Error::io("read", &folder))? {
        let path = entry.map_err(Error::io("read", &folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let step = name.and_then(|name| name.strip_prefix("step-")?.parse::<u64>().ok());
        found.extend(step.map(|step| (step, path)));
    }
    found.sort();
    Ok(found)
}

fn open_log(out: &Path) -> Result<File, Error> {
    let path = out.join(LOG);
    OpenOptions::new()
        .append(true)
        .open(&path)
        .map_err(Error::io("write", &path))
}

/// Whole lines of the log; a line cut off by a kill is not one.
fn log_lines(path: &Path) -> Result<Vec<(LogLine, String)>, Error> {
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    let whole = text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    whole
        .map(|line| {
            Ok((
                serde_json::from_str(line).map_err(Error::json(path))?,
                line.to_owned(),
            ))
        })
        .collect()
}

/// Cuts off what was logged after step `steps_done`.
fn truncate_log(out: &Path, steps_done: u64) -> Result<(), Error> {
    let path = out.join(LOG);
    let kept = log_lines(&path)?
        .into_iter()
        .filter(|(line, _)| line.step() <= steps_done);
    let text: String = kept.map(|(_, text)| text).collect();
    let partial = out.join(".log.partial");
    fs::write(&partial, text).map_err(Error::io("write", &partial))?;
    fs::rename(&partial, &path).map_err(Error::io("write", &path))
}

fn logged_validation(out: &Path, step: u64) -> Result<bool, Error> {
    let lines = log_lines(&out.join(LOG))?;
    let is_it = |line: &LogLine| matches!(line, LogLine::Validation { step: logged, .. } if *logged == step);
    Ok(lines.iter().any(|(line, _)| is_it(line)))
}

/// The first setting in which two runs differ, as "key: before, now".
fn difference(before: &RunSettings, now: &RunSettings) -> Option<String> {
    let (before, now) = (
        serde_json::to_value(before).ok()?,
        serde_json::to_value(now).ok()?,
    );
    first_difference("", &before, &now)
}

fn first_difference(key: &str, before: &Value, now: &Value) -> Option<String> {
    match (before, now) {
        (Value::Object(before), Value::Object(now)) => before.iter().find_map(|(name, value)| {
            let key = if key.is_empty() {
                name.clone()
            } else {
                format!("{key}.{name}")
            };
            first_difference(&key, value, now.get(name).unwrap_or(&Value::Null))
        }),
        _ if before == now => None,
        _ => Some(format!(
            "{key} was {before} when the run was started and is {now} now"
        )),
    }
}
