//! Python's tuples, and values printed with Python's `str` and `repr`.
//!
//! Source: the Python reference, `object.__repr__` of the built-in types.

use std::fmt::Write;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, Rest, Value, ValueKind};

/// A tuple: an immutable list that prints in parentheses.
#[derive(Debug)]
struct Tuple(Vec<Value>);

impl Object for Tuple {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }
}

pub(super) fn tuple(items: Rest<Value>) -> Value {
    Value::from_object(Tuple(items.0))
}

pub(super) fn is_tuple(value: &Value) -> bool {
    value.downcast_object_ref::<Tuple>().is_some()
}

pub(super) fn items(map: &Value) -> Option<Value> {
    let keys = map.try_iter().ok()?;
    let pair = |key: Value| {
        let value = map.get_item(&key).unwrap_or_default();
        Value::from_object(Tuple(vec![key, value]))
    };
    Some(Value::from(keys.map(pair).collect::<Vec<_>>()))
}

/// `str(value)`: a string as it is, other values by their `repr`.
pub(super) fn text_of(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None => repr(value),
    }
}

fn repr(value: &Value) -> String {
    let mut text = String::new();
    print(value, &mut text);
    text
}

fn print(value: &Value, out: &mut String) {
    match value.kind() {
        ValueKind::String => print_string(value.as_str().unwrap_or_default(), out),
        ValueKind::Map => {
            let entry = |(key, value): (&Value, Option<Value>), out: &mut String| {
                print(key, out);
                out.push_str(": ");
                print(&value.unwrap_or_default(), out);
            };
            let keys: Vec<Value> = value.try_iter().into_iter().flatten().collect();
            let entries = keys.iter().map(|key| (key, value.get_item(key).ok()));
            list(entries, ["{", "}"], entry, out);
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter().into_iter().flatten().collect();
            let is_tuple = is_tuple(value);
            let ends = match (is_tuple, items.len()) {
                (true, 1) => ["(", ",)"],
                (true, _) => ["(", ")"],
                (false, _) => ["[", "]"],
            };
            list(items.iter(), ends, print, out);
        }
        ValueKind::Number if !value.is_integer() => match f64::try_from(value.clone()) {
            Ok(number) => out.push_str(&float(number)),
            Err(_) => out.push_str(&value.to_string()),
        },
        // None, booleans and integers print as in Python.
        _ => {
            let _ = write!(out, "{value}");
        }
    }
}

fn list<T>(
    items: impl Iterator<Item = T>,
    [start, end]: [&str; 2],
    print: impl Fn(T, &mut String),
    out: &mut String,
) {
    out.push_str(start);
    for (index, item) in items.enumerate() {
        out.push_str(if index > 0 { ", " } else { "" });
        print(item, out);
    }
    out.push_str(end);
}

/// The shortest decimal digits; scientific notation from 1e16 on and below 1e-4.
pub(super) fn float(number: f64) -> String {
    let scientific = format!("{number:e}");
    let parts = scientific.split_once('e');
    let parts = parts.and_then(|(digits, exponent)| Some((digits, exponent.parse::<i32>().ok()?)));
    match parts {
        Some((digits, exponent)) if !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        // Debug format: integral values keep ".0".
        Some(_) => format!("{number:?}"),
        None => number.to_string(),
    }
}

/// Quotes with `'`, or with `"` if that avoids escapes.
fn print_string(text: &str, out: &mut String) {
    let quote = match text.contains('\'') && !text.contains('"') {
        true => '"',
        false => '\'',
    };
    out.push(quote);
    for character in text.chars() {
        match character {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            it if it == quote => out.extend(['\\', it]),
            it if it.is_control() => {
                let code = u32::from(it);
                let _ = write!(out, "\\x{code:02x}");
            }
            it => out.push(it),
        }
    }
    out.push(quote);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_as_python_does() {
        let cases = [
            ("a", "'a'"),
            ("it's", "\"it's\""),
            ("\"it's\"", r#"'"it\'s"'"#),
            ("\n\t\\\u{1}é🙂", r"'\n\t\\\x01é🙂'"),
        ];
        for (text, wanted) in cases {
            assert_eq!(repr(&Value::from(text)), wanted);
        }
    }

    #[test]
    fn floats_print_as_in_python() {
        let cases = [
            (1.0, "1.0"),
            (-0.5, "-0.5"),
            (1e-7, "1e-07"),
            (0.0001, "0.0001"),
            (1.25e-5, "1.25e-05"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
        ];
        for (number, wanted) in cases {
            assert_eq!(text_of(&Value::from(number)), wanted);
        }
    }

    #[test]
    fn containers_print_their_items() {
        let pair = tuple(Rest(vec![Value::from(1), Value::from("b")]));
        assert_eq!(text_of(&pair), "(1, 'b')");
        assert_eq!(text_of(&tuple(Rest(vec![Value::from(1)]))), "(1,)");
        assert_eq!(text_of(&tuple(Rest(Vec::new()))), "()");
        let map = Value::from_iter([("k", Value::from(vec![Value::from(()), Value::from(true)]))]);
        assert_eq!(text_of(&map), "{'k': [None, True]}");
        assert_eq!(text_of(&items(&map).unwrap()), "[('k', [None, True])]");
        assert_eq!(text_of(&Value::from("as is")), "as is");
    }
}
