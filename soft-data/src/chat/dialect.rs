//! The Jinja dialect of transformers: settings, functions and filters.
//!
//! Source: `chat_template_utils.py` of transformers 5.23; Python's `json.dumps`.

use std::io;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, escape_formatter};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::source::{MARK, MARKS, TUPLE};
use super::{date, limits, python};

pub(super) fn environment() -> Environment<'static> {
    let mut environment = unlimited();
    limits::limit(&mut environment, unlimited);
    environment
}

fn unlimited() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(method);
    environment.set_formatter(|out, state, value| match value.kind() {
        ValueKind::Map | ValueKind::Seq | ValueKind::Iterable | ValueKind::Number => {
            limits::printed_size(value)?;
            Ok(out.write_str(&python::text_of(value))?)
        }
        _ => {
            limits::printed_size(value)?;
            escape_formatter(out, state, value)
        }
    });
    environment.add_filter("tojson", to_json);
    environment.add_filter("string", |value: &Value| python::text_of(value));
    environment.add_filter(MARK, |text: &str| format!("{}{text}{}", MARKS[0], MARKS[1]));
    environment.add_function(TUPLE, python::tuple);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", date::strftime_now);
    environment
}

/// Python's methods of strings, lists and dictionaries.
fn method(state: &State, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let whole: Vec<Value> = std::iter::once(value).chain(arguments).cloned().collect();
    limits::check_call(name, &whole)?;
    match (name, value.as_str(), arguments) {
        ("removeprefix", Some(text), [prefix]) => {
            let prefix = prefix.as_str().unwrap_or_default();
            Ok(text.strip_prefix(prefix).unwrap_or(text).into())
        }
        ("removesuffix", Some(text), [suffix]) => {
            let suffix = suffix.as_str().unwrap_or_default();
            Ok(text.strip_suffix(suffix).unwrap_or(text).into())
        }
        ("items", None, []) if value.kind() == ValueKind::Map => {
            python::items(value).ok_or_else(|| ErrorKind::UnknownMethod.into())
        }
        _ => unknown_method_callback(state, value, name, arguments),
    }
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// Maximum indentation of JSON, in spaces.
const MAX_INDENT: usize = 1000;

/// Formats JSON like `json.dumps(.., ensure_ascii=False, indent=..)`.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // The default of transformers is false; true is not supported.
    let escaped: Option<bool> = options.get("ensure_ascii")?;
    if escaped == Some(true) {
        let cause = "tojson: expected ensure_ascii to be false, found true";
        return Err(Error::new(ErrorKind::InvalidOperation, cause));
    }
    options.assert_all_used()?;
    let json = match indent {
        None => json(value, PythonSpacing),
        Some(width) if width > MAX_INDENT => {
            let cause =
                format!("tojson: expected an indent of at most {MAX_INDENT}, found {width}");
            return Err(Error::new(ErrorKind::InvalidOperation, cause));
        }
        Some(width) => {
            let indent = " ".repeat(width);
            json(value, PrettyFormatter::with_indent(indent.as_bytes()))
        }
    };
    let refusal = |cause: String| Error::new(ErrorKind::BadSerialization, cause);
    let json = json.map_err(|error| refusal(error.to_string()))?;
    let json = String::from_utf8(json).map_err(|error| refusal(error.to_string()))?;
    Ok(Value::from(json))
}

fn json(value: &Value, formatter: impl Formatter) -> serde_json::Result<Vec<u8>> {
    let mut json = Limited(Vec::new());
    value.serialize(&mut Serializer::with_formatter(&mut json, formatter))?;
    Ok(json.0)
}

struct Limited(Vec<u8>);

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > limits::MAX_TEXT {
            Err(io::Error::other("JSON of more than 16 MiB"))
        } else {
            self.0.write(bytes)
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One line, with a space after commas and colons.
struct PythonSpacing;

impl PythonSpacing {
    fn separate<W: io::Write + ?Sized>(writer: &mut W, first: bool) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }
}

impl Formatter for PythonSpacing {
    fn write_f64<W: io::Write + ?Sized>(&mut self, writer: &mut W, number: f64) -> io::Result<()> {
        writer.write_all(python::float(number).as_bytes())
    }

    fn begin_array_value<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        Self::separate(writer, first)
    }

    fn begin_object_key<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        Self::separate(writer, first)
    }

    fn begin_object_value<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    fn render(template: &str) -> String {
        super::super::run::render_plain(template).unwrap()
    }

    #[test]
    fn prints_as_python_does() {
        assert_eq!(
            render("{{ none }} {{ true }} {{ false }} {{ 1.0 }} {{ x }}{{ 1 ~ true }}"),
            "None True False 1.0 1True"
        );
        assert_eq!(render("{{ ' a,b '.strip().split(',')[1] }}"), "b");
        assert_eq!(
            render(r#"{{ {"b": [1, "é<'", 0.0000001], "a": none}|tojson }}"#),
            r#"{"b": [1, "é<'", 1e-07], "a": null}"#
        );
        assert_eq!(
            render("{{ {'a': [1, []]}|tojson(indent=2) }}"),
            "{\n  \"a\": [\n    1,\n    []\n  ]\n}"
        );
    }

    #[test]
    fn texts_are_formatted_as_in_python() {
        assert_eq!(
            render("{{ '%s and %d' % ('a', 2) }}|{{ '%s' % 'b' }}|{{ 7 % 4 }}"),
            "a and 2|b|3"
        );
        assert_eq!(
            render("{{ 'abc'.removeprefix('a').removesuffix('c') }}{{ 'abc'.removeprefix('b') }}"),
            "babc"
        );
        assert_eq!(
            render("{{ (1, 'a') }} {{ ['b', none] }} {{ {'k': 1}.items()|list }} {{ (1,) ~ 'x' }}"),
            "(1, 'a') ['b', None] [('k', 1)] (1,)x"
        );
        assert_eq!(
            render("{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}"),
            "a1"
        );
        assert_eq!(
            render("{% set a, b = (1, 2) %}{{ a + b }}{{ ('x', 'y')[1] }}"),
            "3y"
        );
    }

    #[test]
    fn loops_can_be_left() {
        assert_eq!(
            render(
                "{% for x in [1, 2, 3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}"
            ),
            "1"
        );
    }
}
