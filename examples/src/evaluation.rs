//! The provenance of an evaluation: command, version, machine, seeds, fingerprints of inputs.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use soft_burn::model_folders;
use soft_eval::Bootstrap;
use soft_eval::results::{Evaluation, Finding, Input, Provenance};

use crate::eval_model::EvalModel;

/// Records the provenance of an evaluation while it runs.
pub struct Recorder {
    started: Instant,
    provenance: Provenance,
}

impl Recorder {
    /// Starts the clock and records the command line.
    pub fn begin() -> Self {
        let arguments = std::env::args_os();
        let mut arguments = arguments.map(|argument| argument.to_string_lossy().into_owned());
        let program = arguments.next().unwrap_or_default();
        let program = Path::new(&program).file_stem().unwrap_or_default();
        let mut command = program.to_string_lossy().into_owned();
        for argument in arguments {
            command.push(' ');
            command.push_str(&quoted(&argument));
        }
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        let (system, architecture) = (std::env::consts::OS, std::env::consts::ARCH);
        Self {
            started: Instant::now(),
            provenance: Provenance {
                command,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                machine: format!("{system} {architecture}, {processors} processors"),
                seeds: vec![("bootstrap".to_owned(), Bootstrap::default().seed)],
                ..Provenance::default()
            },
        }
    }

    /// Records a file.
    pub fn input(&mut self, path: &Path) -> Result<()> {
        self.provenance.inputs.push(fingerprint(path)?);
        Ok(())
    }

    /// Records the files of a model.
    pub fn model(&mut self, subject: &EvalModel) {
        self.provenance.inputs.extend(subject.inputs.clone());
    }

    /// Records a seed.
    pub fn seed(&mut self, name: &str, seed: u64) {
        self.provenance.seeds.push((name.to_owned(), seed));
    }

    /// The evaluation with its findings.
    pub fn finish(mut self, findings: Vec<Finding>) -> Evaluation {
        self.provenance.seconds = self.started.elapsed().as_secs_f64();
        Evaluation {
            provenance: self.provenance,
            findings,
        }
    }
}

fn quoted(argument: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,+@%".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', "'\\''"))
    }
}

/// Files of a model folder that determine its results, besides the weights.
const SMALL_FILES: [&str; 7] = [
    "adapter_config.json",
    "config.json",
    "draft_tokens.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

pub(crate) fn fingerprints(folder: &Path) -> Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for folder in model_folders(folder)? {
        let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        let mut paths: Vec<PathBuf> = paths.collect::<Result<_, _>>()?;
        paths.retain(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.ends_with(".safetensors") || SMALL_FILES.contains(&&*name)
        });
        paths.sort();
        for path in paths {
            inputs.push(fingerprint(&path)?);
        }
    }
    Ok(inputs)
}

/// Fingerprint of the content of a model folder.
pub fn fingerprint_of_model(folder: &Path) -> Result<String> {
    Ok(fingerprint_of_inputs(&fingerprints(folder)?))
}

pub(crate) fn fingerprint_of_inputs(inputs: &[Input]) -> String {
    let sums: Vec<&str> = inputs.iter().map(|input| input.crc32c.as_str()).collect();
    fingerprint_of(sums.join(" ").as_bytes())
}

/// CRC-32C of some bytes, as text.
pub fn fingerprint_of(bytes: &[u8]) -> String {
    format!("{:08x}", crc32c::crc32c(bytes))
}

/// A file's size and checksum.
pub fn fingerprint(path: &Path) -> Result<Input> {
    let cannot = || format!("cannot read {}", path.display());
    let metadata = std::fs::metadata(path).with_context(cannot)?;
    ensure!(
        metadata.is_file(),
        "cannot read {}: it is not a regular file",
        path.display()
    );
    let mut file = File::open(path).with_context(cannot)?;
    let (mut sum, mut bytes) = (0, 0);
    let mut part = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut part).with_context(cannot)?;
        if read == 0 {
            break;
        }
        sum = crc32c::crc32c_append(sum, &part[..read]);
        bytes += read as u64;
    }
    Ok(Input {
        path: path.to_owned(),
        bytes,
        crc32c: format!("{sum:08x}"),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // tests fail by panicking

    use super::*;

    #[test]
    fn an_adapter_is_part_of_a_model() {
        let folder = std::env::temp_dir().join(format!("soft-fingerprint-{}", std::process::id()));
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
        std::fs::create_dir_all(folder.join("adapter")).unwrap();
        write("config.json", "{}");
        write("model.safetensors", "weights");
        write("adapter/adapter_config.json", r#"{"lora_alpha": 16}"#);
        let before = fingerprint_of_model(&folder).unwrap();
        assert_eq!(fingerprint_of_model(&folder).unwrap(), before);
        write("adapter/adapter_config.json", r#"{"lora_alpha": 32}"#);
        assert_ne!(fingerprint_of_model(&folder).unwrap(), before);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
