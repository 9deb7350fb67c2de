//! Limits on the steps, time and memory of a template.
//!
//! Templates come with model files from untrusted sources and must not hang a program or exhaust
//! memory. Loops are limited by minijinja's fuel and by time, and every operation that creates a
//! text or a list is checked. Operators are checked by replacing their instructions with filters. A
//! single operation that runs too long is abandoned by [`apart`](super::run::apart).

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};

use super::python::{is_tuple, text_of};
use super::source::longest_raw;

mod operators;

pub(super) use operators::limited;

/// Maximum size of a text, in bytes.
pub(super) const MAX_TEXT: usize = 16 << 20;
/// Maximum total size of the texts of one rendering, in bytes.
const MAX_TEXT_IN_ALL: usize = 256 << 20;
/// Maximum length of a list created by an operation, and maximum width.
const MAX_COUNT: usize = 100_000;
const ITEM: usize = size_of::<Value>();
/// Maximum nesting of lists.
const MAX_DEPTH: usize = 200;
/// Maximum number of instructions of one rendering.
const FUEL: u64 = 4_000_000;
/// Maximum number of bytes of literal template text that one rendering writes.
const MAX_RAW: u64 = 1 << 30;
/// Time limit for all renderings of one conversation.
pub(super) const MAX_TIME: Duration = Duration::from_secs(20);
/// Additional time for an operation that is running at the time limit.
pub(super) const GRACE: Duration = Duration::from_secs(1);
/// Recursion limit of minijinja, for macros.
const RECURSION: usize = 400;

/// Stack size of the rendering thread, enough to drop values as nested as [`FUEL`] allows.
pub(super) const STACK: usize = 256 << 20;

thread_local! {
    static STARTED: Cell<Option<Instant>> = const { Cell::new(None) };
    static MADE: Cell<usize> = const { Cell::new(0) };
}

/// Starts the time limit on this thread.
pub(super) fn start_clock() {
    STARTED.set(Some(Instant::now()));
}

/// Resets the total text size for a rendering on this thread.
pub(super) fn begin() {
    MADE.set(0);
}

/// The instructions a template may run, assuming that each writes the longest literal text.
pub(super) fn fuel(source: &str) -> u64 {
    FUEL.min(MAX_RAW / longest_raw(source).max(1) as u64)
}

fn too_large(what: &str) -> Error {
    Error::new(
        ErrorKind::InvalidOperation,
        format!("the template takes too much: {what}"),
    )
}

const TOO_LONG: &str = "it ran for 20 s and was not done";

pub(super) fn out_of_time() -> Error {
    too_large(TOO_LONG)
}

pub(super) fn is_out_of_time(error: &Error) -> bool {
    error
        .detail()
        .is_some_and(|detail| detail.ends_with(TOO_LONG))
}

fn check_time() -> Result<(), Error> {
    match STARTED.get() {
        Some(started) if started.elapsed() > MAX_TIME => Err(out_of_time()),
        _ => Ok(()),
    }
}

/// Checks and records the creation of a text of `bytes` bytes.
fn check_text(bytes: usize) -> Result<(), Error> {
    check_time()?;
    if bytes > MAX_TEXT {
        return Err(too_large("a text of more than 16 MiB"));
    }
    MADE.set(MADE.get() + bytes);
    if MADE.get() > MAX_TEXT_IN_ALL {
        Err(too_large("texts of more than 256 MiB in all"))
    } else {
        Ok(())
    }
}

fn check_count(count: usize) -> Result<(), Error> {
    if count > MAX_COUNT {
        Err(too_large("a list or width of more than 100,000"))
    } else {
        Ok(())
    }
}

/// Approximate printed size of a value, in bytes. Fails if it is too large or nested too deeply.
fn size_of_value(value: &Value) -> Result<usize, Error> {
    fn size(value: &Value, depth: usize, left: &mut usize) -> Result<(), Error> {
        let own = value.as_str().map_or(16, str::len);
        *left = left
            .checked_sub(own)
            .ok_or_else(|| too_large("a text of more than 16 MiB"))?;
        if !matches!(
            value.kind(),
            ValueKind::Seq | ValueKind::Iterable | ValueKind::Map
        ) {
            return Ok(());
        }
        if depth > MAX_DEPTH {
            return Err(too_large("a list nested more than 200 times"));
        }
        let is_map = value.kind() == ValueKind::Map;
        for item in value.try_iter()? {
            if is_map {
                size(&value.get_item(&item)?, depth + 1, left)?;
            }
            size(&item, depth + 1, left)?;
        }
        Ok(())
    }
    let mut left = MAX_TEXT;
    size(value, 0, &mut left)?;
    Ok(MAX_TEXT - left)
}

/// The size of a value that is printed, which is recorded.
pub(super) fn printed_size(value: &Value) -> Result<usize, Error> {
    let size = size_of_value(value)?;
    check_text(size)?;
    Ok(size)
}

/// Checks the arguments of a filter or method, which may be large only when printed or compared.
fn check_arguments(arguments: &[Value]) -> Result<(), Error> {
    check_time()?;
    arguments
        .iter()
        .try_for_each(|argument| match argument.as_str() {
            Some(text) => check_text(text.len()),
            None => size_of_value(argument).map(drop),
        })
}

/// Checks arguments that are widths or counts.
fn check_counts(arguments: &[Value]) -> Result<(), Error> {
    for argument in arguments {
        if argument.kind() == ValueKind::Number
            && let Some(count) = argument.as_usize()
        {
            check_count(count)?;
        } else if argument.is_kwargs() {
            let named = argument.try_iter()?.map(|name| argument.get_item(&name));
            check_counts(&named.collect::<Result<Vec<_>, _>>()?)?;
        }
    }
    Ok(())
}

/// Checks the widths in a format, such as `%1000d` and `{:>1000}`.
fn check_widths(format: &str) -> Result<(), Error> {
    let numbers = format.split(|c: char| !c.is_ascii_digit());
    match numbers.max_by_key(|digits| digits.trim_start_matches('0').len()) {
        Some(digits) if digits.trim_start_matches('0').len() > 5 => {
            Err(too_large("a width of more than 99,999"))
        }
        _ => Ok(()),
    }
}

fn check_replace(text: &str, from: &str, to: &str) -> Result<(), Error> {
    let found = if from.is_empty() {
        text.chars().count() + 1
    } else {
        text.matches(from).count()
    };
    check_text(text.len() + found.saturating_mul(to.len()))
}

/// Upper bound of the number of parts a text is split into.
fn parts(text: &str, separator: Option<&str>) -> usize {
    match separator {
        Some("") => 1,
        Some(separator) => text.matches(separator).count() + 1,
        None => text.lines().count().max(text.split_whitespace().count()),
    }
}

/// Checks a call of a filter or of a Python method before it is made.
pub(super) fn check_call(name: &str, arguments: &[Value]) -> Result<(), Error> {
    check_arguments(arguments)?;
    let text = |index: usize| arguments.get(index).and_then(Value::as_str);
    match (name, text(0), text(1), text(2)) {
        ("format", Some(format), ..) => {
            if format.contains('*') {
                check_counts(arguments)?;
            }
            check_widths(format)
        }
        ("replace", Some(whole), Some(from), Some(to)) => check_replace(whole, from, to),
        ("split" | "splitlines" | "lines", Some(whole), separator, _) => {
            check_count(parts(whole, separator))
        }
        ("indent", Some(whole), ..) => {
            check_counts(arguments.get(1..).unwrap_or_default())?;
            let width = arguments.get(1).and_then(Value::as_usize).unwrap_or(4);
            check_text(whole.len() + whole.lines().count().saturating_mul(width))
        }
        ("batch" | "slice", ..) => check_counts(arguments.get(1..).unwrap_or_default()),
        ("join", ..) => {
            let separator = text(1).map_or(0, str::len);
            let items = arguments.first().and_then(Value::len).unwrap_or(0);
            check_text(separator.saturating_mul(items))
        }
        _ => Ok(()),
    }?;
    match text(0) {
        // Texts are iterated by character.
        Some(whole) if LISTS.contains(&name) => check_count(whole.len()),
        _ => Ok(()),
    }
}

/// Records the size of a new list.
fn noted(made: Value) -> Result<Value, Error> {
    if made.as_str().is_none()
        && let Some(length) = made.len()
    {
        check_text(length.saturating_mul(ITEM))?;
    }
    Ok(made)
}

/// Filters of minijinja that create lists.
const LISTS: [&str; 16] = [
    "batch",
    "chain",
    "dictsort",
    "groupby",
    "items",
    "list",
    "map",
    "reject",
    "rejectattr",
    "select",
    "selectattr",
    "slice",
    "sort",
    "sum",
    "unique",
    "zip",
];

/// Filters of minijinja that create texts or traverse a whole value.
const TEXTS: [&str; 20] = [
    "capitalize",
    "e",
    "escape",
    "format",
    "indent",
    "join",
    "lines",
    "lower",
    "max",
    "min",
    "pprint",
    "replace",
    "reverse",
    "safe",
    "split",
    "string",
    "title",
    "tojson",
    "trim",
    "upper",
];

/// Adds limits to a complete environment; `another` creates one like it without limits.
pub(super) fn limit(environment: &mut Environment<'static>, another: fn() -> Environment<'static>) {
    environment.set_recursion_limit(RECURSION);
    // `debug` prints the whole state.
    environment.remove_global("debug");
    let unlimited = Arc::new(another());
    for name in LISTS.into_iter().chain(TEXTS) {
        let unlimited = Arc::clone(&unlimited);
        environment.add_filter(name, move |arguments: Rest<Value>| {
            check_call(name, &arguments)?;
            noted(unlimited.empty_state().apply_filter(name, &arguments)?)
        });
    }
    operators::add_filters(environment);
}

#[cfg(test)]
mod tests;
