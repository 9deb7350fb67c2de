//! The log of a run as TensorBoard event files.
//!
//! An event file is a sequence of records, each with its length, a protocol buffer and checksums of
//! both. A scalar is a tag and a number in an `Event`. Sources: TensorFlow's `record_writer.h`,
//! `event.proto` and `summary.proto`. Implemented here because the crates for such files are
//! unmaintained (tensorboard-rs was last released in 2022).

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use soft_burn::{ExitLoss, LogLine};

/// An event file that mirrors a log.
#[derive(Debug)]
pub struct EventFile(BufWriter<File>);

impl EventFile {
    /// Creates an event file in `folder` with the lines of `log`. Files of earlier starts of the
    /// run are removed, since the log contains their steps.
    ///
    /// # Errors
    /// If files cannot be read or written.
    pub fn create(folder: &Path, log: &Path) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(folder)
                .with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let path = folder.join(format!("events.out.tfevents.{}.soft", now() as u64));
        let file =
            File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let mut events = Self(BufWriter::new(file));
        events.write(&Event::version())?;
        for line in soft_data::read_text(log)
            .with_context(|| format!("cannot read {}", log.display()))?
            .lines()
        {
            events.add(&serde_json::from_str(line)?)?;
        }
        Ok(events)
    }

    /// Adds the numbers of a line of the log.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn add(&mut self, line: &LogLine) -> Result<()> {
        let losses = |part: &str, exits: &[ExitLoss]| -> Vec<(String, f64)> {
            let tag = |exit: &ExitLoss| (format!("{part}/exit_{}", exit.exit), exit.loss);
            exits.iter().map(tag).collect()
        };
        let (step, scalars) = match line {
            LogLine::Train(report) => {
                let mut scalars = losses("loss", &report.exits);
                scalars.push(("loss/weighted".to_owned(), report.loss));
                scalars.push(("run/learning_rate".to_owned(), report.learning_rate));
                scalars.push(("run/gradient_norm".to_owned(), report.gradient_norm));
                let of_exits = report.exit_gradient_norm;
                scalars.extend(of_exits.map(|norm| ("run/exit_gradient_norm".to_owned(), norm)));
                scalars.push(("run/tokens_per_second".to_owned(), report.tokens_per_second));
                (report.step, scalars)
            }
            LogLine::Validation { step, exits } => (*step, losses("validation", exits)),
        };
        self.write(&Event::scalars(step, &scalars))?;
        // TensorBoard reads the file while it grows.
        self.0.flush().context("cannot write the event file")
    }

    fn write(&mut self, event: &Event) -> Result<()> {
        let length = (event.0.len() as u64).to_le_bytes();
        let parts = [&length[..], &masked(&length), &event.0, &masked(&event.0)];
        let written = parts.iter().try_for_each(|part| self.0.write_all(part));
        written.context("cannot write the event file")
    }
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

/// Masked CRC-32C, as TensorFlow stores checksums next to their data.
fn masked(bytes: &[u8]) -> [u8; 4] {
    let crc = crc32c::crc32c(bytes).rotate_right(15);
    crc.wrapping_add(0xa282_ead8).to_le_bytes()
}

/// An encoded `Event`.
struct Event(Vec<u8>);

impl Event {
    /// The first event of a file.
    fn version() -> Self {
        let mut event = Self::dated();
        event.bytes(3, b"brain.Event:2");
        event
    }

    fn scalars(step: u64, scalars: &[(String, f64)]) -> Self {
        let mut summary = Self(Vec::new());
        for (tag, number) in scalars {
            let mut value = Self(Vec::new());
            value.bytes(1, tag.as_bytes());
            value.key(2, 5);
            value.0.extend((*number as f32).to_le_bytes());
            summary.bytes(1, &value.0);
        }
        let mut event = Self::dated();
        event.key(2, 0);
        event.varint(step);
        event.bytes(5, &summary.0);
        event
    }

    fn dated() -> Self {
        let mut event = Self(Vec::new());
        event.key(1, 1);
        event.0.extend(now().to_le_bytes());
        event
    }

    /// Field number and wire type: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes.
    fn key(&mut self, field: u64, wire: u64) {
        self.varint(field << 3 | wire);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.key(field, 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test's way to fail

    use super::*;

    /// Step 300, tag "a", number 1.5, encoded by hand.
    #[test]
    fn a_scalar_is_written_as_tensorflow_writes_it() {
        let event = Event::scalars(300, &[("a".to_owned(), 1.5)]);
        assert_eq!(event.0[0], 0x09);
        let after_time = [
            0x10, 0xac, 0x02, // step
            0x2a, 0x0a, // summary, 10 bytes
            0x0a, 0x08, // value, 8 bytes
            0x0a, 0x01, b'a', // tag
            0x15, 0x00, 0x00, 0xc0, 0x3f, // 1.5
        ];
        assert_eq!(event.0[9..], after_time);
    }

    /// The check value of CRC-32C, 0xe3069283 for "123456789", masked by hand.
    #[test]
    fn checksums_are_masked() {
        assert_eq!(u32::from_le_bytes(masked(b"123456789")), 0xc78a_b0e5);
    }
}
