//! Exits: the depths of a nested model's sub-models.
//!
//! Independent of models and tensors; a depth is a number of decoder blocks. Source: Sorted LLaMA
//! (arXiv 2309.08968), section 3, where the set of depths is called B.

use std::{fmt, num::NonZeroUsize, ops::Range, str::FromStr};
use thiserror::Error;

use serde::{Deserialize, Serialize};

/// Invalid exits, weights or schedules, or exits that do not fit the model.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ExitError {
    /// No exit was given.
    #[error("no exit given: expected at least one depth, such as \"12,16,20..40\"")]
    Empty,
    /// Depth 0 has no blocks.
    #[error("exit 0 is not a sub-model: depths count decoder blocks from 1")]
    ZeroDepth,
    /// A step of 0 between exits.
    #[error("a step of 0 between exits: expected 1 or more")]
    ZeroStep,
    /// More blocks than any model has; refused before memory is allocated.
    #[error("exit {depth} is deeper than any model: expected at most 100000")]
    TooDeep {
        /// The depth.
        depth: usize,
    },
    /// The depths do not strictly increase.
    #[error("exits must strictly increase: {after} comes after {before}")]
    Unsorted {
        /// The depth that comes first.
        before: usize,
        /// The depth that follows and is not larger.
        after: usize,
    },
    /// A part of the text is neither a depth nor a range.
    #[error(
        "cannot read exits from {part:?}: expected a depth (12), a range (20..40) or a stepped range (12:30:3)"
    )]
    Malformed {
        /// The comma-separated part at fault.
        part: String,
    },
    /// An exit that the model does not have.
    #[error("exit {exit} is beyond the model, which has {depth} blocks")]
    BeyondTheModel {
        /// The exit.
        exit: usize,
        /// The model's depth.
        depth: usize,
    },
    /// The last exit is not the full model.
    #[error("the last exit must be the full model: it is {last}, the model has {depth} blocks")]
    NotTheFullModel {
        /// The deepest exit given.
        last: usize,
        /// The model's depth.
        depth: usize,
    },
    /// Invalid weights of the exits.
    #[error(
        "weights of the exits: expected finite numbers, none negative, one above 0; found {found}"
    )]
    Weights {
        /// The weights.
        found: String,
    },
    /// An unknown name of weights by depth.
    #[error(
        "no weights of the exits are called {found:?}: expected equal, linear, quadratic, square-root or inverse"
    )]
    NoSuchWeights {
        /// The name.
        found: String,
    },
    /// A curriculum with a period or duration of 0.
    #[error("{found}: expected at least 1")]
    Curriculum {
        /// Description of the curriculum.
        found: &'static str,
    },
    /// No exit is drawn per micro-batch.
    #[error("0 exits sampled per micro-batch: expected at least 1")]
    NothingSampled,
}

/// The number of decoder blocks of a sub-model, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Exit(NonZeroUsize);

impl Exit {
    /// The exit after `depth` blocks.
    ///
    /// # Errors
    /// [`ExitError::ZeroDepth`] when `depth` is 0.
    pub fn new(depth: usize) -> Result<Self, ExitError> {
        NonZeroUsize::new(depth)
            .map(Self)
            .ok_or(ExitError::ZeroDepth)
    }

    /// Number of blocks before this exit.
    pub fn depth(self) -> usize {
        self.0.get()
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Strictly increasing exits, at least one; the last is the full model.
///
/// Text consists of depths and ranges: `"12,16,20..40"` lists 12, 16 and every depth from 20 to 40;
/// `"12:30:3"` goes from 12 to 30 in steps of 3. Ranges include both ends.
///
/// ```
/// use soft_core::Exits;
///
/// let exits: Exits = "12:30:6".parse()?;
/// assert_eq!(exits.depths(), [12, 18, 24, 30]);
/// assert_eq!(exits, Exits::every(6, 12..=30)?);
/// assert_eq!(exits.segments().collect::<Vec<_>>(), [0..12, 12..18, 18..24, 24..30]);
/// # Ok::<(), soft_core::ExitError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<usize>", into = "Vec<usize>")]
pub struct Exits(Vec<Exit>);

impl Exits {
    /// Exits at these depths.
    ///
    /// # Errors
    /// When the list is empty, contains 0, or is not strictly increasing.
    pub fn new(depths: impl IntoIterator<Item = usize>) -> Result<Self, ExitError> {
        let exits = depths
            .into_iter()
            .map(Exit::new)
            .collect::<Result<Vec<_>, _>>()?;
        if exits.is_empty() {
            return Err(ExitError::Empty);
        }
        if let Some(pair) = exits.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(ExitError::Unsorted {
                before: pair[0].depth(),
                after: pair[1].depth(),
            });
        }
        Ok(Self(exits))
    }

    /// Only the full model: plain fine-tuning.
    ///
    /// # Errors
    /// [`ExitError::ZeroDepth`] when `depth` is 0.
    pub fn full(depth: usize) -> Result<Self, ExitError> {
        Self::new([depth])
    }

    /// Every `step`-th depth of `range`, and its end, which is the full depth.
    ///
    /// # Errors
    /// When `step` is 0, the range is empty or starts at 0, or a depth is above 100,000.
    pub fn every(step: usize, range: std::ops::RangeInclusive<usize>) -> Result<Self, ExitError> {
        if step == 0 {
            return Err(ExitError::ZeroStep);
        }
        let full = *range.end();
        if full > MAX_DEPTH {
            return Err(ExitError::TooDeep { depth: full });
        }
        let mut depths: Vec<_> = range.step_by(step).collect();
        if depths.last().is_some_and(|&last| last != full) {
            depths.push(full);
        }
        Self::new(depths)
    }

    /// Checks that these are exits for a model of `depth` blocks.
    ///
    /// # Errors
    /// [`ExitError::NotTheFullModel`] unless the last exit is the full model.
    pub fn for_depth(self, depth: usize) -> Result<Self, ExitError> {
        let last = self.last().depth();
        if last == depth {
            Ok(self)
        } else {
            Err(ExitError::NotTheFullModel { last, depth })
        }
    }

    /// Checks that a model of `depth` blocks has all these exits. Its full depth need not be one of
    /// them, which suffices for evaluation but not for training.
    ///
    /// # Errors
    /// [`ExitError::BeyondTheModel`] with the first exit that is too deep.
    pub fn check_within(&self, depth: usize) -> Result<(), ExitError> {
        match self.iter().find(|exit| exit.depth() > depth) {
            None => Ok(()),
            Some(exit) => Err(ExitError::BeyondTheModel {
                exit: exit.depth(),
                depth,
            }),
        }
    }

    /// The exits, shallowest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Exit> + DoubleEndedIterator + '_ {
        self.0.iter().copied()
    }

    /// Number of exits, |B| in the paper.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The deepest exit: the full model.
    pub fn last(&self) -> Exit {
        self.0[self.0.len() - 1]
    }

    /// The depths as plain numbers.
    pub fn depths(&self) -> Vec<usize> {
        self.iter().map(Exit::depth).collect()
    }

    /// Whether `exit` is one of these.
    pub fn contains(&self, exit: Exit) -> bool {
        self.0.binary_search(&exit).is_ok()
    }

    /// The block ranges between successive exits, from the embedding on. Each block occurs once.
    pub fn segments(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let starts = std::iter::once(0).chain(self.iter().map(Exit::depth));
        starts
            .zip(self.iter())
            .map(|(start, exit)| start..exit.depth())
    }
}

impl fmt::Display for Exits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, exit) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{exit}")?;
        }
        Ok(())
    }
}

impl FromStr for Exits {
    type Err = ExitError;

    fn from_str(text: &str) -> Result<Self, ExitError> {
        let mut depths = Vec::new();
        for part in text.split(',') {
            let before = depths.len();
            extend_with_part(&mut depths, part.trim())?;
            // At once, so that no list is much longer than the largest depth.
            if before > 0 && depths[before] <= depths[before - 1] {
                break;
            }
        }
        Self::new(depths)
    }
}

/// Appends the depths of one comma-separated part: `7`, `20..40`, `12:30:3`.
fn extend_with_part(depths: &mut Vec<usize>, part: &str) -> Result<(), ExitError> {
    let malformed = || ExitError::Malformed {
        part: part.to_owned(),
    };
    let number = |text: &str| text.trim().parse::<usize>().map_err(|_| malformed());
    let (start, end, step) = if let Some((start, end)) = part.split_once("..") {
        (number(start)?, number(end.trim_start_matches('='))?, 1)
    } else if part.contains(':') {
        let mut fields = part.splitn(3, ':');
        let mut field = || fields.next().map_or(Ok(1), number);
        (field()?, field()?, field()?)
    } else {
        let depth = number(part)?;
        (depth, depth, 1)
    };
    // Checked before the range is expanded: larger depths are typing errors.
    if step == 0 || start > end || end > MAX_DEPTH {
        return Err(malformed());
    }
    depths.extend((start..=end).step_by(step));
    Ok(())
}

/// Above the depth of any published decoder; keeps a mistyped range from exhausting memory.
const MAX_DEPTH: usize = 100_000;

impl TryFrom<Vec<usize>> for Exits {
    type Error = ExitError;

    fn try_from(depths: Vec<usize>) -> Result<Self, ExitError> {
        Self::new(depths)
    }
}

impl From<Exits> for Vec<usize> {
    fn from(exits: Exits) -> Self {
        exits.depths()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parses_lists_ranges_and_steps() {
        let depths = |text: &str| text.parse::<Exits>().map(|exits| exits.depths());
        assert_eq!(depths("12, 16,20..23").unwrap(), [12, 16, 20, 21, 22, 23]);
        assert_eq!(depths("12:30:3").unwrap(), [12, 15, 18, 21, 24, 27, 30]);
        assert_eq!(depths("2:4").unwrap(), [2, 3, 4]);
        assert_eq!(depths("8").unwrap(), [8]);
    }

    #[test]
    fn refuses_what_is_no_increasing_list() {
        for bad in [
            "",
            "0",
            "3,2",
            "3,3",
            "a",
            "1..",
            "5..2",
            "1:9:0",
            "1,,2",
            "1:2:3:4",
            "1..9999999",
        ] {
            assert!(bad.parse::<Exits>().is_err(), "{bad:?} was accepted");
        }
        let message = "3,2".parse::<Exits>().unwrap_err().to_string();
        assert!(message.contains('3') && message.contains('2'), "{message}");
    }

    #[test]
    fn every_always_ends_at_the_full_depth() {
        assert_eq!(Exits::every(4, 12..=40).unwrap().len(), 8);
        assert_eq!(Exits::every(3, 2..=9).unwrap().depths(), [2, 5, 8, 9]);
        assert!(Exits::every(0, 1..=2).is_err());
    }

    #[test]
    fn belongs_to_a_model_only_if_it_ends_at_its_depth() {
        let exits = Exits::new([1, 4]).unwrap();
        assert!(exits.clone().for_depth(4).is_ok());
        assert!(exits.clone().for_depth(3).is_err());
        assert!(exits.for_depth(5).is_err());
    }

    #[test]
    fn serde_checks_what_it_reads() {
        let exits: Exits = serde_json::from_str("[1,3]").unwrap();
        assert_eq!(serde_json::to_string(&exits).unwrap(), "[1,3]");
        assert!(serde_json::from_str::<Exits>("[3,1]").is_err());
    }

    proptest! {
        #[test]
        fn display_reads_back(depths in proptest::collection::btree_set(1usize..200, 1..12)) {
            let exits = Exits::new(depths).unwrap();
            prop_assert_eq!(exits.to_string().parse::<Exits>().unwrap(), exits);
        }

        #[test]
        fn segments_cover_every_block_once(depths in proptest::collection::btree_set(1usize..200, 1..12)) {
            let exits = Exits::new(depths).unwrap();
            let blocks: Vec<usize> = exits.segments().flatten().collect();
            prop_assert_eq!(blocks, (0..exits.last().depth()).collect::<Vec<_>>());
        }
    }
}
