//! Progress bars on a terminal, or plain lines if stderr is not a terminal.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::statusln;

/// A progress bar.
pub struct Progress {
    bar: ProgressBar,
    name: String,
    total: u64,
    started: Instant,
    last_line: Instant,
    plain: bool,
}

/// Interval of plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(30);

impl Progress {
    /// A bar named `name` of `total` steps, of which `done` are done.
    pub fn new(name: &str, total: u64, done: u64) -> Self {
        let bar = ProgressBar::new(total).with_position(done);
        if let Ok(style) = ProgressStyle::with_template(
            "{prefix} [{bar:24}] {pos}/{len} {elapsed} left {eta} {msg}",
        ) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(name.to_owned());
        bar.reset_eta();
        let now = Instant::now();
        let plain = !std::io::stderr().is_terminal();
        Self {
            bar,
            name: name.to_owned(),
            total,
            started: now,
            last_line: now,
            plain,
        }
    }

    /// Advances by one step and shows `message`.
    pub fn step(&mut self, message: &str) {
        self.bar.set_message(message.to_owned());
        self.bar.inc(1);
        let position = self.bar.position();
        if self.plain && (self.last_line.elapsed() > PLAIN_EVERY || position == self.total) {
            self.last_line = Instant::now();
            let elapsed = self.started.elapsed().as_secs();
            statusln!(
                "{} {position}/{} after {elapsed} s {message}",
                self.name,
                self.total
            );
        }
    }

    /// Prints a line above the bar.
    pub fn say(&self, line: &str) {
        if self.plain {
            statusln!("{line}");
        } else {
            self.bar.println(line);
        }
    }

    /// Removes the bar.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}
