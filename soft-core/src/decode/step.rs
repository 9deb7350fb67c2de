//! One token of an answer, as the decoder returns it.

use crate::exit::Exit;

/// A token of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Index of the prompt.
    pub row: usize,
    /// The token.
    pub token: u32,
    /// The exit that generated it, or drafted it.
    pub exit: Exit,
    /// Whether it was drafted and accepted.
    pub accepted: bool,
}
