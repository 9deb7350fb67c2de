//! The exits of one row among those of the decoder.

use crate::exit::{Exit, Exits};

/// Which of the decoder's exits a row uses.
///
/// Indices are those of the decoder's exits unless they are called the row's own.
#[derive(Default)]
pub(crate) struct RowExits {
    /// For each exit of the decoder, its index among the row's own exits.
    own: Vec<Option<usize>>,
    /// The exit at which the row's tokens are final: its full depth.
    last: usize,
}

impl RowExits {
    /// `None` if the decoder lacks one of `exits`.
    pub fn of(exits: &Exits, decoders: &[Exit]) -> Option<Self> {
        let mut own = vec![None; decoders.len()];
        let mut last = 0;
        for (index, exit) in exits.iter().enumerate() {
            last = decoders.iter().position(|other| *other == exit)?;
            own[last] = Some(index);
        }
        Some(Self { own, last })
    }

    pub fn last(&self) -> usize {
        self.last
    }

    pub fn uses(&self, index: usize) -> bool {
        self.own(index).is_some()
    }

    /// The index among the row's own exits.
    pub fn own(&self, index: usize) -> Option<usize> {
        self.own.get(index).copied().flatten()
    }

    /// The row's exit before the one of this index.
    pub fn before(&self, index: usize) -> Option<usize> {
        (0..index).rev().find(|&earlier| self.uses(earlier))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_of_a_row_are_found_among_the_decoders() {
        let decoders: Vec<Exit> = Exits::new([2, 4, 6, 8]).unwrap().iter().collect();
        let exits = RowExits::of(&Exits::new([2, 6]).unwrap(), &decoders).unwrap();
        assert_eq!(exits.last(), 2);
        assert_eq!(
            [0, 1, 2, 3].map(|index| exits.own(index)),
            [Some(0), None, Some(1), None]
        );
        assert_eq!((exits.before(2), exits.before(0)), (Some(0), None));
        assert!(RowExits::of(&Exits::new([2, 5]).unwrap(), &decoders).is_none());
    }
}
