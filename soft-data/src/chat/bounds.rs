//! Limits on what a template may take: steps, time, and the size of what it makes.
//!
//! A template comes with a model's files, from wherever those come. It must not be able to hang a
//! program or to take all memory: loops end by minijinja's fuel and by the clock, and every
//! operation that makes a text or a list is checked before it does so. Operators are reached by
//! replacing their instructions by filters of two arguments.

use std::cell::Cell;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use minijinja::machinery::{Instruction, Instructions};
use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::python::{is_tuple, text_of};

/// Bytes of a text that a template makes.
pub(super) const MAX_TEXT: usize = 16 << 20;
/// Bytes of all texts that one rendering makes.
const MAX_TEXT_IN_ALL: usize = 256 << 20;
/// Items of a list, and the largest number given to a filter or method: widths, counts.
const MAX_COUNT: usize = 100_000;
/// Lists within lists.
const MAX_DEPTH: usize = 200;
/// Instructions of one rendering.
const FUEL: u64 = 4_000_000;
const MAX_TIME: Duration = Duration::from_secs(20);
/// Macros within macros, as minijinja counts.
const RECURSION: usize = 400;

/// Stack of the thread that renders: room to drop what [`FUEL`] can nest.
pub(super) const STACK: usize = 256 << 20;

thread_local! {
    static STARTED: Cell<Option<Instant>> = const { Cell::new(None) };
    static MADE: Cell<usize> = const { Cell::new(0) };
}

/// Begins to count for a rendering on this thread.
pub(super) fn begin() {
    STARTED.set(Some(Instant::now()));
    MADE.set(0);
}

fn too_large(what: &str) -> Error {
    Error::new(
        ErrorKind::InvalidOperation,
        format!("the template takes too much: {what}"),
    )
}

fn check_time() -> Result<(), Error> {
    match STARTED.get() {
        Some(started) if started.elapsed() > MAX_TIME => {
            Err(too_large("it ran for 20 s and was not done"))
        }
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
    match MADE.get() > MAX_TEXT_IN_ALL {
        true => Err(too_large("texts of more than 256 MiB in all")),
        false => Ok(()),
    }
}

fn check_count(count: usize) -> Result<(), Error> {
    match count > MAX_COUNT {
        true => Err(too_large("a list, width or count of more than 100,000")),
        false => Ok(()),
    }
}

/// Bytes that a value prints to, at most; an error where that is too many, or it is nested deeply.
pub(super) fn printed_size(value: &Value) -> Result<usize, Error> {
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
    check_text(MAX_TEXT - left)?;
    Ok(MAX_TEXT - left)
}

/// What is given to a filter or method: no count so large that what it makes is.
fn check_arguments(arguments: &[Value]) -> Result<(), Error> {
    check_time()?;
    for argument in arguments {
        if argument.kind() == ValueKind::Number
            && let Some(count) = argument.as_usize()
        {
            check_count(count)?;
        }
        if let Some(text) = argument.as_str() {
            check_text(text.len())?;
        } else if argument.is_kwargs() {
            let named = argument.try_iter()?.map(|name| argument.get_item(&name));
            check_arguments(&named.collect::<Result<Vec<_>, _>>()?)?;
        } else if let Some(count) = argument.len() {
            check_count(count)?;
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
    let found = match from.is_empty() {
        true => text.chars().count() + 1,
        false => text.matches(from).count(),
    };
    check_text(text.len() + found.saturating_mul(to.len()))
}

/// A call of a filter or a method of Python's, before it is made.
pub(super) fn check_call(name: &str, arguments: &[Value]) -> Result<(), Error> {
    check_arguments(arguments)?;
    let text = |index: usize| arguments.get(index).and_then(Value::as_str);
    match (name, text(0), text(1), text(2)) {
        ("format", Some(format), ..) => check_widths(format),
        ("replace", Some(whole), Some(from), Some(to)) => check_replace(whole, from, to),
        ("indent", Some(whole), ..) => {
            let width = arguments.get(1).and_then(Value::as_usize).unwrap_or(4);
            check_text(whole.len() + whole.lines().count().saturating_mul(width))
        }
        ("tojson" | "pprint" | "string" | "join", ..) => {
            let separator = text(1).map_or(0, str::len);
            let items = arguments.first().and_then(Value::len).unwrap_or(0);
            check_text(separator.saturating_mul(items))?;
            arguments
                .iter()
                .try_for_each(|it| printed_size(it).map(drop))
        }
        _ => Ok(()),
    }
}

/// Filters of minijinja's that make texts or lists, to be called only after [`check_call`].
const FILTERS: [&str; 31] = [
    "batch",
    "capitalize",
    "chain",
    "dictsort",
    "escape",
    "format",
    "groupby",
    "indent",
    "items",
    "join",
    "lines",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "reject",
    "replace",
    "reverse",
    "select",
    "slice",
    "sort",
    "split",
    "string",
    "sum",
    "title",
    "trim",
    "unique",
    "upper",
    "zip",
];

/// Limits an environment that is complete otherwise: `environment` makes another one like it.
pub(super) fn limit(environment: &mut Environment<'static>, another: fn() -> Environment<'static>) {
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION);
    let unlimited = Arc::new(another());
    for name in FILTERS.into_iter().chain(["tojson"]) {
        let unlimited = Arc::clone(&unlimited);
        environment.add_filter(name, move |arguments: Rest<Value>| {
            check_call(name, &arguments)?;
            unlimited.empty_state().apply_filter(name, &arguments)
        });
    }
    environment.add_filter(ADD, add);
    environment.add_filter(CONCAT, concat);
    environment.add_filter(MULTIPLY, multiply);
    environment.add_filter(REMAINDER, remainder);
    environment.add_filter(SLICE, slice);
}

const ADD: &str = "__add";
const CONCAT: &str = "__concat";
const MULTIPLY: &str = "__multiply";
const REMAINDER: &str = "__remainder";
const SLICE: &str = "__slice";

/// The instructions with operators by filters, which are limited.
///
/// # Errors
/// When a constant of the template is too large.
pub(super) fn limited<'a>(instructions: Instructions<'a>) -> Result<Instructions<'a>, Error> {
    let mut instructions = instructions;
    for index in 0..instructions.len() as u32 {
        let Some(instruction) = instructions.get_mut(index) else {
            break;
        };
        let by_filter = match instruction {
            Instruction::Add => (ADD, 2),
            Instruction::StringConcat => (CONCAT, 2),
            Instruction::Mul => (MULTIPLY, 2),
            Instruction::Rem => (REMAINDER, 2),
            Instruction::Slice => (SLICE, 4),
            Instruction::LoadConst(value) => {
                check_arguments(std::slice::from_ref(value)).or_else(|error| {
                    // A number by itself takes nothing.
                    if value.kind() == ValueKind::Number {
                        Ok(())
                    } else {
                        Err(error)
                    }
                })?;
                continue;
            }
            _ => continue,
        };
        // No place in the cache of filters: looked up by name.
        *instruction = Instruction::ApplyFilter(by_filter.0, Some(by_filter.1), !0);
    }
    Ok(instructions)
}

fn both<T>(a: Option<T>, b: Option<T>) -> Option<(T, T)> {
    Some((a?, b?))
}

/// What minijinja itself makes of an expression over `a`, `b`, `c` and `d`.
fn evaluated(expression: &str, [a, b, c, d]: [&Value; 4]) -> Result<Value, Error> {
    static PLAIN: LazyLock<Environment<'static>> = LazyLock::new(Environment::new);
    let found = PLAIN
        .compile_expression(expression)
        .and_then(|compiled| compiled.eval(minijinja::context! { a, b, c, d }));
    // Without the place, which is one in that expression.
    found.map_err(|error| {
        let detail = error.detail().unwrap_or_default().to_owned();
        Error::new(error.kind(), detail)
    })
}

/// `a OP b`.
fn operator(expression: &str, a: &Value, b: &Value) -> Result<Value, Error> {
    evaluated(expression, [a, b, &Value::UNDEFINED, &Value::UNDEFINED])
}

fn add(a: &Value, b: &Value) -> Result<Value, Error> {
    if let Some((a, b)) = both(a.as_str(), b.as_str()) {
        check_text(a.len() + b.len())?;
    } else if let Some((a, b)) = both(a.len(), b.len()) {
        check_count(a.saturating_add(b))?;
    }
    operator("a + b", a, b)
}

fn concat(a: &Value, b: &Value) -> Result<Value, Error> {
    check_text(printed_size(a)? + printed_size(b)?)?;
    Ok(Value::from(text_of(a) + &text_of(b)))
}

fn multiply(a: &Value, b: &Value) -> Result<Value, Error> {
    for (repeated, times) in [(a, b), (b, a)] {
        let times = times.as_usize().unwrap_or(0);
        if let Some(text) = repeated.as_str() {
            check_text(text.len().saturating_mul(times))?;
        } else if let Some(count) = repeated.len() {
            check_count(count.saturating_mul(times))?;
        }
    }
    operator("a * b", a, b)
}

/// The remainder of numbers; of a text and values, the text formatted as Python does.
fn remainder(state: &State, a: &Value, b: &Value) -> Result<Value, Error> {
    let Some(format) = a.as_str() else {
        return operator("a % b", a, b);
    };
    let mut arguments = vec![Value::from(format)];
    match is_tuple(b) {
        true => arguments.extend(b.try_iter()?),
        false => arguments.push(b.clone()),
    }
    state.apply_filter("format", &arguments)
}

fn slice(value: &Value, start: &Value, stop: &Value, step: &Value) -> Result<Value, Error> {
    check_text(value.as_str().map_or(0, str::len))?;
    evaluated("a[b:c:d]", [value, start, stop, step])
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::run::render_plain;

    /// What the template is refused for.
    fn refusal(template: &str) -> String {
        let started = Instant::now();
        let error = render_plain(template).unwrap_err();
        // Far from a bar on speed: what is refused must not run for minutes first.
        assert!(started.elapsed().as_secs() < 60, "{template}");
        error.to_string()
    }

    #[test]
    fn loops_end() {
        let forever = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
        assert!(refusal(forever).contains("recursion limit"));
        let long = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}";
        assert!(refusal(long).contains("fuel"));
    }

    #[test]
    fn texts_and_lists_do_not_explode() {
        let grow = |step: &str| {
            format!(
                "{{% set n = namespace(s='abcd') %}}{{% for i in range(60) %}}{step}{{% endfor %}}{{{{ n.s|length }}}}"
            )
        };
        for step in [
            "{% set n.s = n.s ~ n.s %}",
            "{% set n.s = n.s + n.s %}",
            "{% set n.s = n.s * 2 %}",
            "{% set n.s = '%s%s' % (n.s, n.s) %}",
            "{% set n.s = n.s|replace('a', 'aaaa') %}",
            "{% set n.s = n.s.replace('a', 'aaaa') %}",
            "{% set n.s = [n.s, n.s]|join %}",
            "{% set n.s = '{}{}'.format(n.s, n.s) %}",
            "{% set t %}{{ n.s }}{{ n.s }}{% endset %}{% set n.s = t %}",
            "{% set n.s = [n.s, n.s] %}{% set t = n.s|tojson %}",
            "{% set n.s = [n.s, n.s] %}{% set t = n.s ~ '' %}",
        ] {
            assert!(refusal(&grow(step)).contains("takes too much"), "{step}");
        }
        for template in [
            "{{ ([1] * 4000000000)|length }}",
            "{% set l = [1] %}{{ (l * 4000000000)|list }}",
            "{{ '%1000000000d'|format(1) }}",
            "{{ '%1000000000d' % 1 }}",
            "{{ '%*d'|format(1000000000, 1) }}",
            "{{ '{:>1000000000}'.format(1) }}",
            "{{ 'a'|indent(1000000000, true) }}",
            "{{ 'a'|indent(width=1000000000, first=true) }}",
            "{{ ('a' * 99999999)|length }}",
            "{{ [1]|batch(1000000000, 0)|list }}",
            "{{ [1]|tojson(indent=10000000000) }}",
        ] {
            assert!(refusal(template).contains("takes too much"), "{template}");
        }
        assert!(refusal("{{ [1]|tojson(indent=9999) }}").contains("at most 1000"));
    }

    #[test]
    fn deep_nesting_is_no_overflow() {
        let nest = "{% set n = namespace(l=[]) %}{% for i in range(99999) %}{% set n.l = [n.l] %}{% endfor %}";
        assert_eq!(render_plain(nest).unwrap(), "");
        for end in ["{{ n.l }}", "{{ n.l|tojson }}", "{{ n.l ~ '' }}"] {
            let error = refusal(&format!("{nest}{end}"));
            assert!(error.contains("nested more than"), "{error}");
        }
        let parentheses = format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000));
        assert!(render_plain(&parentheses).is_err());
        let blocks = format!(
            "{}{}",
            "{% if 1 %}".repeat(5000),
            "{% endif %}".repeat(5000)
        );
        assert!(render_plain(&blocks).is_err());
    }

    #[test]
    fn ordinary_templates_are_within_the_limits() {
        let template = "{% set n = namespace(s='') %}{% for i in range(2000) %}{% set n.s = n.s + 'word ' ~ i %}{% endfor %}{{ n.s|length }}";
        assert_eq!(render_plain(template).unwrap(), "16890");
        assert_eq!(
            render_plain("{{ 1000000 + 1 }}{{ 'abc'[1:] }}{{ [1, 2][::-1] }}").unwrap(),
            "1000001bc[2, 1]"
        );
    }
}
