//! A report, independent of the output format.

use crate::results::SampleTable;

/// A report.
#[derive(Clone, Debug, Default)]
pub struct Document {
    /// The title.
    pub title: String,
    /// The sections.
    pub sections: Vec<Section>,
}

/// A section.
#[derive(Clone, Debug, Default)]
pub struct Section {
    /// The heading.
    pub heading: String,
    /// The content.
    pub blocks: Vec<Block>,
}

/// A part of a section.
#[derive(Clone, Debug)]
pub enum Block {
    /// A paragraph.
    Text(String),
    /// A table.
    Table(Table),
    /// A figure.
    Figure(Figure),
    /// Answers side by side.
    Samples(SampleTable),
}

/// A table with text in the first column and numbers in the others.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// The caption.
    pub caption: String,
    /// The column headings.
    pub headings: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<String>>,
}

/// A figure.
#[derive(Clone, Debug, Default)]
pub struct Figure {
    /// The file name without extension.
    pub name: String,
    /// The figure as SVG.
    pub svg: String,
    /// The caption.
    pub caption: String,
}

impl Section {
    /// An empty section.
    pub fn new(heading: &str) -> Self {
        Self {
            heading: heading.to_owned(),
            blocks: Vec::new(),
        }
    }

    /// Adds a paragraph.
    pub fn text(&mut self, text: impl Into<String>) {
        self.blocks.push(Block::Text(text.into()));
    }

    /// Adds a table.
    pub fn table(&mut self, caption: impl Into<String>, headings: &[&str], rows: Vec<Vec<String>>) {
        self.blocks.push(Block::Table(Table {
            caption: caption.into(),
            headings: headings.iter().map(|&heading| heading.to_owned()).collect(),
            rows,
        }));
    }

    /// Adds a figure.
    pub fn figure(&mut self, name: impl Into<String>, svg: String, caption: impl Into<String>) {
        self.blocks.push(Block::Figure(Figure {
            name: name.into(),
            svg,
            caption: caption.into(),
        }));
    }
}

impl Document {
    /// All figures.
    pub fn figures(&self) -> impl Iterator<Item = &Figure> {
        let blocks = self.sections.iter().flat_map(|section| &section.blocks);
        blocks.filter_map(|block| match block {
            Block::Figure(figure) => Some(figure),
            _ => None,
        })
    }
}
