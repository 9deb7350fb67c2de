//! A report as one self-contained HTML file without scripts.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::document::{Block, Document, Section, Table};
use super::palette::ordered;
use crate::results::SampleTable;

pub(super) fn page(document: &Document) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (document.title) }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body {
                h1 { (document.title) }
                nav {
                    ul {
                        @for (number, section) in document.sections.iter().enumerate() {
                            li { a href={ "#s" (number) } { (section.heading) } }
                        }
                    }
                }
                @for (number, section) in document.sections.iter().enumerate() {
                    (section_of(number, section))
                }
            }
        }
    };
    page.into_string()
}

fn section_of(number: usize, section: &Section) -> Markup {
    html! {
        section id={ "s" (number) } {
            h2 { (section.heading) }
            @for block in &section.blocks {
                @match block {
                    Block::Text(text) => p { (text) },
                    Block::Table(table) => (table_of(table)),
                    Block::Figure(figure) => figure {
                        div.scroll role="img" aria-label=(figure.caption) { (PreEscaped(&figure.svg)) }
                        figcaption { (figure.caption) }
                    },
                    Block::Samples(samples) => (samples_of(samples)),
                }
            }
        }
    }
}

fn table_of(table: &Table) -> Markup {
    html! {
        div.scroll tabindex="0" {
            table aria-label=(table.caption) {
                thead { tr { @for heading in &table.headings { th scope="col" { (heading) } } } }
                tbody {
                    @for row in &table.rows {
                        tr { @for cell in row { (cell_of(cell)) } }
                    }
                }
            }
        }
        // Outside the scrolled area, so that it can be read on a narrow screen.
        p.caption { (table.caption) }
    }
}

/// Long cells, such as rules and commands, may break after a comma or anywhere; numbers do not
/// break.
fn cell_of(cell: &str) -> Markup {
    html! {
        @if cell.chars().count() > 32 {
            td.long { @for part in cell.split_inclusive(',') { (part) wbr; } }
        } @else {
            td { (cell) }
        }
    }
}

fn samples_of(samples: &SampleTable) -> Markup {
    let mut depths: Vec<usize> = samples
        .answers
        .iter()
        .flat_map(|answer| answer.pieces.iter().map(|piece| piece.1))
        .collect();
    depths.sort_unstable();
    depths.dedup();
    html! {
        div.sample {
            p.prompt {
                (samples.prompt)
                @if let Some(wanted) = &samples.wanted { " " span.wanted { "[" (wanted) "]" } }
            }
            p.legend {
                @for depth in &depths { span style=(colour(*depth, samples.depth)) { (depth) } " " }
            }
            dl {
                @for answer in &samples.answers {
                    dt { (answer.model) ", " (answer.mode) }
                    dd {
                        @for (text, depth) in &answer.pieces {
                            span style=(colour(*depth, samples.depth)) title={ "exit " (depth) } { (text) }
                        }
                    }
                }
            }
        }
    }
}

/// Style with the color of the depth as background, and black or white text, whichever is readable.
fn colour(depth: usize, deepest: usize) -> String {
    let background = ordered(depth as f64 / deepest.max(1) as f64);
    let plotters::style::RGBColor(red, green, blue) = background;
    // Relative luminance of WCAG 2, with a simplified exponent.
    let linear = |part: u8| (f64::from(part) / 255.0).powf(2.2);
    let luminance = 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
    let ink = if luminance > 0.18 { "#000" } else { "#fff" };
    format!("background:#{red:02x}{green:02x}{blue:02x};color:{ink}")
}
