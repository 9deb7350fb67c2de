//! What chat templates expect beyond Jinja: the settings, functions and filters of transformers.
//!
//! Knows the template language; knows neither conversations nor folders.
//!
//! Source: `chat_template_utils.py` of transformers 5.23; Python's `json.dumps`.

use std::io;

use minijinja::value::{Kwargs, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::date;

/// An environment that runs templates as transformers does.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.add_filter("tojson", to_json);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", date::strftime_now);
    environment
}

/// `source` with the tags `generation` and `endgeneration`, which mark what the assistant says
/// and print nothing, as a plain scope.
pub(super) fn without_generation_tags(source: &str) -> String {
    let mut rewritten = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (text, tag) = rest.split_at(start);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        rewritten += text;
        let name = tag.trim_matches(|c: char| "{}%-+".contains(c) || c.is_whitespace());
        rewritten += &match name {
            "generation" => tag.replace(name, "with"),
            "endgeneration" => tag.replace(name, "endwith"),
            _ => tag.to_owned(),
        };
        rest = after;
    }
    rewritten + rest
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// JSON as `json.dumps(.., ensure_ascii=False, indent=..)` writes it.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    options.assert_all_used()?;
    let json = match indent {
        None => json(value, PythonSpacing),
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
    let mut json = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut json, formatter))?;
    Ok(json)
}

/// One line, with a space behind commas and colons.
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
    use super::*;

    fn render(template: &str) -> String {
        environment().render_str(template, ()).unwrap()
    }

    #[test]
    fn prints_as_python_does() {
        assert_eq!(
            render("{{ none }} {{ true }} {{ false }} {{ 1.0 }} {{ x }}{{ 1 ~ true }}"),
            "None True False 1.0 1True"
        );
        assert_eq!(render("{{ ' a,b '.strip().split(',')[1] }}"), "b");
        assert_eq!(
            render(r#"{{ {"b": [1, "é<'"], "a": none}|tojson }}"#),
            r#"{"b": [1, "é<'"], "a": null}"#
        );
        assert_eq!(
            render("{{ {'a': [1, []]}|tojson(indent=2) }}"),
            "{\n  \"a\": [\n    1,\n    []\n  ]\n}"
        );
    }

    #[test]
    fn generation_tags_are_a_scope() {
        let template = "{% for x in [1] %}\n  {%- generation -%}\n{% set y = x %}{{ y }}\n  {% endgeneration %}{% endfor %}";
        assert_eq!(render(&without_generation_tags(template)), "1\n");
        let other = "{{ generation }}{% set generation = 1 %}{%";
        assert_eq!(without_generation_tags(other), other);
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
