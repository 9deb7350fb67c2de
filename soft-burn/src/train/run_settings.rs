//! Settings of a run on disk, and their comparison when a run is resumed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Error;
use crate::train::schedule::Decay;
use crate::train::settings::TrainSettings;

/// What a run writes and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSettings {
    /// The training itself.
    pub train: TrainSettings,
    /// Steps between validations. If `None`, only start and end are validated.
    pub validate_every: Option<u64>,
    /// Steps between checkpoints. If `None`, there are no checkpoints.
    pub checkpoint_every: Option<u64>,
    /// How many of the newest checkpoints to keep, at least 1.
    pub keep_checkpoints: usize,
    /// Model folder the run starts from, and source of the tokenizer files.
    pub base: PathBuf,
    /// Other properties of the run (data, seed, ...); a resumed run must have the same.
    pub provenance: Value,
}

impl RunSettings {
    /// Checks that the settings are in range.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the setting.
    pub fn validate(&self) -> Result<(), Error> {
        let at_least_1 = |key, value: u64| {
            let (found, expected) = (value.to_string(), "at least 1");
            if value > 0 {
                Ok(())
            } else {
                Err(Error::Setting {
                    key,
                    found,
                    expected,
                })
            }
        };
        at_least_1("validate_every", self.validate_every.unwrap_or(1))?;
        at_least_1("checkpoint_every", self.checkpoint_every.unwrap_or(1))?;
        at_least_1("keep_checkpoints", self.keep_checkpoints as u64)?;
        self.train.validate()
    }
}

/// The original number of steps, if there are more now and the learning rate does not depend on it.
pub(crate) fn more_steps(before: &Value, now: &RunSettings) -> Option<u64> {
    let steps = before.get("train")?.get("steps")?.as_u64()?;
    let is_constant = now.train.schedule.decay == Decay::Constant;
    (is_constant && now.train.steps > steps).then_some(steps)
}

/// The first setting that differs, as a message. With `more`, the number of steps is ignored.
pub(crate) fn difference(before: &Value, now: &RunSettings, more: Option<u64>) -> Option<String> {
    // Converted to text and back like `before`, so that numbers compare equal.
    let mut now: Value = serde_json::from_str(&serde_json::to_string(now).ok()?).ok()?;
    if let Some(steps) = more {
        now["train"]["steps"] = steps.into();
    }
    let difference = first_difference("", before, &now)?;
    let advice = match now["train"]["schedule"]["decay"].as_str() {
        _ if !difference.starts_with("train.steps ") => "",
        Some("constant") => "; a run can be given more steps, not fewer",
        _ => "; a cosine is laid out for its steps: start a new run from the model of this one",
    };
    Some(difference + advice)
}

fn first_difference(key: &str, before: &Value, now: &Value) -> Option<String> {
    let (Value::Object(old), Value::Object(new)) = (before, now) else {
        let same = before == now;
        return (!same)
            .then(|| format!("{key} was {before} when the run was started and is {now} now"));
    };
    let added = new.keys().filter(|name| !old.contains_key(*name));
    old.keys().chain(added).find_map(|name| {
        let key = if key.is_empty() {
            name.clone()
        } else {
            format!("{key}.{name}")
        };
        let value =
            |map: &serde_json::Map<String, Value>| map.get(name).cloned().unwrap_or_default();
        first_difference(&key, &value(old), &value(new))
    })
}
