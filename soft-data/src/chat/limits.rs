//! Limits on what a template may take: steps, time, and the size of what it makes.
//!
//! A template comes with a model's files, from wherever those come. It must not be able to hang a
//! program or to take all memory: loops end by minijinja's fuel and by the clock, and every
//! operation that makes a text or a list is checked before it does so. Operators are reached by
//! replacing their instructions by filters of two arguments. What runs long between two checks is
//! left behind by [`apart`](super::run::apart).

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};

use super::python::{is_tuple, text_of};
use super::source::longest_raw;

mod operators;

pub(super) use operators::limited;

/// Bytes of a text that a template makes.
pub(super) const MAX_TEXT: usize = 16 << 20;
/// Bytes of all texts that one rendering makes.
const MAX_TEXT_IN_ALL: usize = 256 << 20;
/// Items of a list that an operation makes, and widths.
const MAX_COUNT: usize = 100_000;
/// Bytes that an item of a list takes.
const ITEM: usize = size_of::<Value>();
/// Lists within lists.
const MAX_DEPTH: usize = 200;
/// Instructions of one rendering.
const FUEL: u64 = 4_000_000;
/// Bytes of the template's own text that one rendering writes.
const MAX_RAW: u64 = 1 << 30;
/// For all renderings of one conversation.
pub(super) const MAX_TIME: Duration = Duration::from_secs(20);
/// For the operation that is running when the time is over.
pub(super) const GRACE: Duration = Duration::from_secs(1);
/// Macros within macros, as minijinja counts.
const RECURSION: usize = 400;

/// Stack of the thread that renders: room to drop what [`FUEL`] can nest.
pub(super) const STACK: usize = 256 << 20;

thread_local! {
    static STARTED: Cell<Option<Instant>> = const { Cell::new(None) };
    static MADE: Cell<usize> = const { Cell::new(0) };
}

/// Begins to take the time of what is done on this thread.
pub(super) fn start_clock() {
    STARTED.set(Some(Instant::now()));
}

/// Begins to count for a rendering on this thread.
pub(super) fn begin() {
    MADE.set(0);
}

/// The instructions that a template may run: each may write its longest text.
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

/// The error of a template that takes too long.
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

/// Notes that a text of so many bytes is made.
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

/// Bytes that a value prints to, about; an error where that is too many, or it is nested deeply.
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

/// The same for a value that is printed.
pub(super) fn printed_size(value: &Value) -> Result<usize, Error> {
    let size = size_of_value(value)?;
    check_text(size)?;
    Ok(size)
}

/// What is given to a filter or method: nothing that is large only when it is printed or compared.
fn check_arguments(arguments: &[Value]) -> Result<(), Error> {
    check_time()?;
    arguments
        .iter()
        .try_for_each(|argument| match argument.as_str() {
            Some(text) => check_text(text.len()),
            None => size_of_value(argument).map(drop),
        })
}

/// No width or count so large that what is made of it is.
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

/// Widths in a format, such as `%1000d` and `{:>1000}`.
fn check_widths(format: &str) -> Result<(), Error> {
    let numbers = format.split(|c: char| !c.is_ascii_digit());
    match numbers.max_by_key(|digits| digits.trim_start_matches('0').len()) {
        Some(digits) if digits.trim_start_matches('0').len() > 5 => {
            Err(too_large("a width of more than 99,999"))
        }
        _ => Ok(()),
    }
}

/// `text.replace(from, to)` before it is made.
fn check_replace(text: &str, from: &str, to: &str) -> Result<(), Error> {
    let found = if from.is_empty() {
        text.chars().count() + 1
    } else {
        text.matches(from).count()
    };
    check_text(text.len() + found.saturating_mul(to.len()))
}

/// How many parts a text is split into.
fn parts(text: &str, separator: Option<&str>) -> usize {
    match separator {
        Some("") => 1,
        Some(separator) => text.matches(separator).count() + 1,
        None => text.lines().count().max(text.split_whitespace().count()),
    }
}

/// A call of a filter or a method of Python's, before it is made.
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
        // Character by character.
        Some(whole) if LISTS.contains(&name) => check_count(whole.len()),
        _ => Ok(()),
    }
}

/// A list that was made.
fn noted(made: Value) -> Result<Value, Error> {
    if made.as_str().is_none()
        && let Some(length) = made.len()
    {
        check_text(length.saturating_mul(ITEM))?;
    }
    Ok(made)
}

/// Filters of minijinja's that make lists.
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

/// Filters of minijinja's that make texts, or go through a whole value.
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

/// Limits an environment that is complete otherwise: `environment` makes another one like it.
pub(super) fn limit(environment: &mut Environment<'static>, another: fn() -> Environment<'static>) {
    environment.set_recursion_limit(RECURSION);
    // It prints everything there is.
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
