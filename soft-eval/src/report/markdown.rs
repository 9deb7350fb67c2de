//! A report as Markdown that refers to figures in files.

use std::fmt::Write;

use super::document::{Block, Document, Table};

/// The document as Markdown. Figures are in `figures/`.
pub(super) fn markdown(document: &Document) -> String {
    let mut text = format!("# {}\n", inline(&document.title));
    for section in &document.sections {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\n## {}\n", inline(&section.heading));
        for block in &section.blocks {
            match block {
                Block::Text(paragraph) => {
                    let _ = writeln!(text, "{}\n", inline(paragraph));
                }
                Block::Table(table) => text.push_str(&lines(table)),
                Block::Figure(figure) => {
                    let caption = inline(&figure.caption);
                    let _ = writeln!(text, "![{caption}](figures/{}.svg)\n", figure.name);
                }
                Block::Samples(samples) => {
                    let wanted = samples.wanted.as_ref();
                    let wanted =
                        wanted.map_or(String::new(), |wanted| format!(" [{}]", escaped(wanted)));
                    let _ = writeln!(
                        text,
                        "> {}{wanted}\n",
                        escaped(&samples.prompt).trim().replace('\n', "\n> ")
                    );
                    for answer in &samples.answers {
                        let words: String =
                            answer.pieces.iter().map(|piece| piece.0.as_str()).collect();
                        let (model, mode) = (inline(&answer.model), inline(&answer.mode));
                        let _ = writeln!(
                            text,
                            "- {model}, {mode}: {}",
                            escaped(words.trim()).replace('\n', " ⏎ ")
                        );
                    }
                    text.push('\n');
                }
            }
        }
    }
    text
}

/// Escapes all markup, for prompts and answers.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if "<>&*_`[]#|\\".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// Escapes markup in names and numbers. Brackets that cannot make a link, such as those of
/// intervals, and underscores are kept.
fn inline(text: &str) -> String {
    let markup = match text.contains("](") || text.contains("][") {
        true => "<>&*`|\\[]",
        false => "<>&*`|\\",
    };
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if markup.contains(c) {
            escaped.push('\\');
        }
        // A line break would start a new block.
        escaped.push(if c == '\n' { ' ' } else { c });
    }
    escaped
}

fn lines(table: &Table) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<_> = cells.iter().map(|cell| inline(cell)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut text = line(&table.headings);
    let rules: Vec<_> = (0..table.headings.len())
        .map(|column| if column == 0 { "---" } else { "---:" })
        .collect();
    text.push_str(&format!("|{}|\n", rules.join("|")));
    for row in &table.rows {
        text.push_str(&line(row));
    }
    format!("{text}\n{}\n\n", inline(&table.caption))
}
