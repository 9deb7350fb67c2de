//! A report before it is written: sections of text, tables, figures and samples. Knows no format.

use crate::results::SampleTable;

/// A report.
#[derive(Clone, Debug, Default)]
pub struct Document {
    /// Its title.
    pub title: String,
    /// Its sections.
    pub sections: Vec<Section>,
}

/// A part with a heading.
#[derive(Clone, Debug, Default)]
pub struct Section {
    /// The heading.
    pub heading: String,
    /// What stands below it.
    pub blocks: Vec<Block>,
}

/// What a section is made of.
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

/// A table whose first column is text and whose others are figures.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// What it shows.
    pub caption: String,
    /// Headings of the columns.
    pub headings: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<String>>,
}

/// A figure.
#[derive(Clone, Debug, Default)]
pub struct Figure {
    /// Its name as a file, without an ending.
    pub name: String,
    /// The drawing.
    pub svg: String,
    /// What it shows.
    pub caption: String,
}

impl Section {
    /// A section without anything in it yet.
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
