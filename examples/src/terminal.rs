//! Output of programs. Printing does not panic on a closed pipe, a full disk or a lost terminal,
//! and removes escape codes.

use std::backtrace::BacktraceStatus;
use std::borrow::Cow;
use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::OnceLock;

use anyhow::{Error, Result, anyhow};
use soft_burn::out_of_memory;

/// Prints a line of results to stdout.
#[macro_export]
macro_rules! outln {
    ($($text:tt)*) => { $crate::terminal::out_line(format_args!($($text)*)) };
}

/// Prints a status line to stderr.
#[macro_export]
macro_rules! statusln {
    ($($text:tt)*) => { $crate::terminal::status_line(format_args!($($text)*)) };
}

/// The first error of stdout, after which nothing more is written.
static LOST_OUTPUT: OnceLock<io::Error> = OnceLock::new();

/// Implements [`outln!`].
pub fn out_line(text: Arguments) {
    if LOST_OUTPUT.get().is_none() {
        let line = format!("{text}\n");
        if let Err(cause) = io::stdout().write_all(clean(&line).as_bytes()) {
            let _ = LOST_OUTPUT.set(cause);
        }
    }
}

/// Implements [`statusln!`]. Errors are ignored, so that a run does not stop if its messages are
/// lost.
pub fn status_line(text: Arguments) {
    let line = format!("{text}\n");
    let _ = io::stderr().write_all(clean(&line).as_bytes());
}

/// Runs a program and prints its error. A closed pipe, as with `head`, is not a failure; a full
/// disk is.
pub fn run(program: impl FnOnce() -> Result<()>) -> ExitCode {
    run_with_status(|| program().map(|()| ExitCode::SUCCESS))
}

/// Like [`run`], for a program that chooses its own exit status.
pub fn run_with_status(program: impl FnOnce() -> Result<ExitCode>) -> ExitCode {
    let done = within_memory(program);
    let _ = io::stdout().flush();
    match (done, LOST_OUTPUT.get()) {
        (Ok(status), None) => status,
        (Ok(status), Some(cause)) if cause.kind() == ErrorKind::BrokenPipe => status,
        (Ok(_), Some(cause)) => {
            status_line(format_args!(
                "Error: cannot write to standard output: {cause}"
            ));
            ExitCode::FAILURE
        }
        (Err(error), _) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        (Err(error), _) => {
            status_line(format_args!("Error: {}", shortened(&described(&error))));
            ExitCode::FAILURE
        }
    }
}

/// Turns the out-of-memory panics of backends into errors.
fn within_memory<T>(program: impl FnOnce() -> Result<T>) -> Result<T> {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if out_of_memory(panic.payload()).is_none() {
            print(panic);
        }
    }));
    panic::catch_unwind(AssertUnwindSafe(program)).unwrap_or_else(|panic| {
        match out_of_memory(panic.as_ref()) {
            Some(reason) => Err(anyhow!("the device ran out of memory: {reason}")),
            None => panic::resume_unwind(panic),
        }
    })
}

/// An error with its causes, except those that end its own text.
fn described(error: &Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.ends_with(&cause) {
            text += &format!("\n\nCaused by:\n    {cause}");
        }
    }
    let backtrace = error.backtrace();
    match backtrace.status() {
        BacktraceStatus::Captured => format!("{text}\n\nStack backtrace:\n{backtrace}"),
        _ => text,
    }
}

fn is_broken_pipe(error: &Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// Maximum number of characters of a printed error, since it may quote a file.
const MOST_OF_AN_ERROR: usize = 4000;

fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MOST_OF_AN_ERROR) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
    }
}

/// Maximum number of digits of a printed number.
const MOST_DIGITS: usize = 40;

/// Removes control characters except line breaks and tabs, and shortens long numbers.
pub fn clean(text: &str) -> Cow<'_, str> {
    let plain = |c: char| !c.is_control() || c == '\n' || c == '\t';
    let longest = text
        .split(|c: char| !c.is_ascii_digit())
        .map(str::len)
        .max();
    let short = longest.unwrap_or(0) <= MOST_DIGITS;
    if short && text.chars().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut cleaned = String::with_capacity(text.len());
    let mut digits = 0;
    for character in text.chars().filter(|&c| plain(c)) {
        digits = if character.is_ascii_digit() {
            digits + 1
        } else {
            0
        };
        match digits {
            0..=MOST_DIGITS => cleaned.push(character),
            _ if digits == MOST_DIGITS + 1 => cleaned.push('…'),
            _ => {}
        }
    }
    Cow::Owned(cleaned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_codes_and_endless_numbers_are_taken_out() {
        assert_eq!(clean("a\x1b[31m\u{9b}b\r\u{7f}\tc\n"), "a[31mb\tc\n");
        assert_eq!(
            clean(&format!("x{}y", "1".repeat(300))),
            format!("x{}…y", "1".repeat(40))
        );
        assert!(matches!(clean("as it is 12345"), Cow::Borrowed(_)));
        assert_eq!(
            shortened(&"é".repeat(5000)).chars().count(),
            MOST_OF_AN_ERROR + 1
        );
    }
}
