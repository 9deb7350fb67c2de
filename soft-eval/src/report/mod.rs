//! Reports of evaluations: HTML, Markdown and JSON, with every figure as SVG and PNG.
//!
//! `sections` turns `results` into a `document`, which `html` and `markdown` write.

mod document;
pub mod figures;
mod html;
mod markdown;
pub mod palette;
mod png;
mod sections;

use std::path::Path;

pub use png::png;
use serde_json::Value;

use crate::EvalError;
use crate::results::{Evaluation, write_whole};

/// Removes control characters, which XML forbids and terminals interpret.
fn plain(text: &str) -> String {
    let kept = |c: &char| !c.is_control() || *c == '\n' || *c == '\t';
    text.chars().filter(kept).collect()
}

/// Applies [`plain`] to all texts: names, prompts and answers are untrusted.
fn plain_texts(evaluations: &[Evaluation]) -> Result<Vec<Evaluation>, EvalError> {
    fn visit(value: &mut Value) {
        match value {
            Value::String(text) => *text = plain(text),
            Value::Array(items) => items.iter_mut().for_each(visit),
            Value::Object(entries) => entries.values_mut().for_each(visit),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    let through_json = || {
        let mut value = serde_json::to_value(evaluations)?;
        visit(&mut value);
        serde_json::from_value(value)
    };
    through_json().map_err(|error: serde_json::Error| EvalError::Content {
        path: "report.json".into(),
        line: None,
        expected: "figures that can be written as JSON",
        found: error.to_string(),
    })
}

/// Writes `index.html`, `report.md`, `report.json` and `figures/` into `folder`, which is created
/// if necessary. Existing files of these names are replaced.
///
/// # Errors
/// I/O errors; a figure that cannot be drawn.
pub fn write_report(
    folder: impl AsRef<Path>,
    title: &str,
    evaluations: &[Evaluation],
) -> Result<(), EvalError> {
    let folder = folder.as_ref();
    let (title, evaluations) = (&plain(title), &plain_texts(evaluations)?);
    let document = sections::document(title, evaluations)?;
    let figures = folder.join("figures");
    std::fs::create_dir_all(&figures).map_err(EvalError::io("create", &figures))?;
    for figure in document.figures() {
        let path = |end: &str| figures.join(format!("{}.{end}", figure.name));
        write_whole(&path("svg"), figure.svg.as_bytes())?;
        write_whole(&path("png"), &png(&figure.name, &figure.svg, 2.0)?)?;
    }
    let json = serde_json::to_string_pretty(evaluations).map_err(|error| EvalError::Content {
        path: folder.join("report.json"),
        line: None,
        expected: "figures that can be written as JSON",
        found: error.to_string(),
    })?;
    write_whole(&folder.join("report.json"), json.as_bytes())?;
    write_whole(
        &folder.join("report.md"),
        markdown::markdown(&document).as_bytes(),
    )?;
    write_whole(&folder.join("index.html"), html::page(&document).as_bytes())
}
