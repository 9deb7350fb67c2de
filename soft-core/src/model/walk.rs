//! One pass through the blocks, with a stop at each exit that is used.
//!
//! Used by training, validation and the memory-flat objective of soft-burn.

use std::ops::Range;

use crate::exit::{Exit, Exits};

/// An exit at which a walk stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Index of the exit.
    pub index: usize,
    /// The exit.
    pub exit: Exit,
}

impl Exits {
    /// Runs the blocks once, starting with `hidden`, and visits the states at every exit for whose
    /// index `used` holds, shallowest first. Blocks beyond the last of these are not run.
    ///
    /// # Errors
    /// The first error of `blocks` or `visit`.
    pub fn walk<H, E>(
        &self,
        mut hidden: H,
        used: impl Fn(usize) -> bool,
        mut blocks: impl FnMut(H, Range<usize>) -> Result<H, E>,
        mut visit: impl FnMut(Stop, &H) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut start = 0;
        for (index, exit) in self.iter().enumerate().filter(|(index, _)| used(*index)) {
            hidden = blocks(hidden, start..exit.depth())?;
            visit(Stop { index, exit }, &hidden)?;
            start = exit.depth();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ranges that run and the stops, when the exits of these indices are used.
    fn walked(used: &[usize]) -> (Vec<Range<usize>>, Vec<(usize, usize)>) {
        let exits = Exits::new([2, 3, 6, 8]).unwrap();
        let (mut ran, mut stops) = (Vec::new(), Vec::new());
        let walk = exits.walk(
            0,
            |index| used.contains(&index),
            |depth, range| {
                assert_eq!(depth, range.start);
                ran.push(range.clone());
                Ok::<_, ()>(range.end)
            },
            |stop, &depth| {
                assert_eq!(depth, stop.exit.depth());
                stops.push((stop.index, depth));
                Ok(())
            },
        );
        walk.unwrap();
        (ran, stops)
    }

    #[test]
    fn every_block_up_to_the_last_used_exit_runs_once() {
        assert_eq!(
            walked(&[0, 1, 2, 3]),
            (
                vec![0..2, 2..3, 3..6, 6..8],
                vec![(0, 2), (1, 3), (2, 6), (3, 8)]
            )
        );
        assert_eq!(walked(&[1, 2]), (vec![0..3, 3..6], vec![(1, 3), (2, 6)]));
        assert_eq!(walked(&[]), (vec![], vec![]));
    }
}
