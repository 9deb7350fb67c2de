//! A model, and the rows on which its laws are checked.

use crate::exit::Exits;

/// A model under test, a batch of rows of equal length, and the tolerance for rounding.
#[derive(Debug)]
pub struct Laws<'a, M> {
    /// The model under test.
    pub model: &'a M,
    /// At least one row; all of the same length, at least 4.
    pub rows: Vec<Vec<u32>>,
    /// Exits of the model.
    pub exits: Exits,
    /// Largest absolute difference attributed to rounding.
    pub tolerance: f64,
}
