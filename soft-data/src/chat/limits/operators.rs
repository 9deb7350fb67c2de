//! Operators as filters that check the size of their result.

use std::sync::LazyLock;

use minijinja::machinery::{Instruction, Instructions};
use minijinja::{Environment, Error, State, Value};

use super::*;

const ADD: &str = "__add";
const CONCAT: &str = "__concat";
const MULTIPLY: &str = "__multiply";
const REMAINDER: &str = "__remainder";
const SLICE: &str = "__slice";

pub(super) fn add_filters(environment: &mut Environment<'static>) {
    environment.add_filter(ADD, add);
    environment.add_filter(CONCAT, concat);
    environment.add_filter(MULTIPLY, multiply);
    environment.add_filter(REMAINDER, remainder);
    environment.add_filter(SLICE, slice);
}

/// Replaces operators with checked filters. Fails if a constant is too large.
pub(in crate::chat) fn limited<'a>(
    instructions: Instructions<'a>,
) -> Result<Instructions<'a>, Error> {
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
                check_arguments(std::slice::from_ref(value))?;
                continue;
            }
            _ => continue,
        };
        // `!0`: not cached, looked up by name.
        *instruction = Instruction::ApplyFilter(by_filter.0, Some(by_filter.1), !0);
    }
    Ok(instructions)
}

fn both<T>(a: Option<T>, b: Option<T>) -> Option<(T, T)> {
    Some((a?, b?))
}

/// Evaluates an expression over `a`, `b`, `c` and `d` in an unmodified minijinja environment.
fn evaluated(expression: &str, [a, b, c, d]: [&Value; 4]) -> Result<Value, Error> {
    static PLAIN: LazyLock<Environment<'static>> = LazyLock::new(Environment::new);
    let found = PLAIN
        .compile_expression(expression)
        .and_then(|compiled| compiled.eval(minijinja::context! { a, b, c, d }));
    // Drops the location, which refers to `expression`.
    found.map_err(|error| {
        let detail = error.detail().unwrap_or_default().to_owned();
        Error::new(error.kind(), detail)
    })
}

fn operator(expression: &str, a: &Value, b: &Value) -> Result<Value, Error> {
    evaluated(expression, [a, b, &Value::UNDEFINED, &Value::UNDEFINED])
}

fn add(a: &Value, b: &Value) -> Result<Value, Error> {
    if let Some((a, b)) = both(a.as_str(), b.as_str()) {
        check_text(a.len() + b.len())?;
    } else if let Some((a, b)) = both(a.len(), b.len()) {
        check_count(a.saturating_add(b))?;
    }
    noted(operator("a + b", a, b)?)
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
    noted(operator("a * b", a, b)?)
}

/// The remainder of numbers, or `text % values` as in Python.
fn remainder(state: &State, a: &Value, b: &Value) -> Result<Value, Error> {
    let Some(format) = a.as_str() else {
        return operator("a % b", a, b);
    };
    let mut arguments = vec![Value::from(format)];
    if is_tuple(b) {
        arguments.extend(b.try_iter()?)
    } else {
        arguments.push(b.clone())
    }
    state.apply_filter("format", &arguments)
}

fn slice(value: &Value, start: &Value, stop: &Value, step: &Value) -> Result<Value, Error> {
    check_text(value.as_str().map_or(0, str::len))?;
    noted(evaluated("a[b:c:d]", [value, start, stop, step])?)
}
