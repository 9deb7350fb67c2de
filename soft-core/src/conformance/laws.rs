//! A model and the rows its laws are tried on.

use crate::exit::Exits;

/// One model under test, a batch of equally long rows, and how far rounding may go.
#[derive(Debug)]
pub struct Laws<'a, M> {
    /// The model under test.
    pub model: &'a M,
    /// At least one row; all of one length, at least 4.
    pub rows: Vec<Vec<u32>>,
    /// Exits of the model.
    pub exits: Exits,
    /// Largest absolute difference that counts as rounding.
    pub tolerance: f64,
}
