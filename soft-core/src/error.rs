//! What can be wrong with exits, batches and samplers, said once and clearly.

use thiserror::Error;

use crate::Exits;

/// A list of exits that is none, or does not fit the model.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ExitError {
    /// No exit was named.
    #[error("no exit given: expected at least one depth, such as \"12,16,20..40\"")]
    Empty,
    /// Depth 0 keeps no block.
    #[error("exit 0 is not a sub-model: depths count decoder blocks from 1")]
    ZeroDepth,
    /// A step of 0 never ends.
    #[error("a step of 0 between exits: expected 1 or more")]
    ZeroStep,
    /// More blocks than any model has: a slip, refused before memory is taken for it.
    #[error("exit {depth} is deeper than any model: expected at most 100000")]
    TooDeep {
        /// The depth.
        depth: usize,
    },
    /// Depths must strictly increase.
    #[error("exits must strictly increase: {after} comes after {before}")]
    Unsorted {
        /// The depth that comes first.
        before: usize,
        /// The depth that follows and is not larger.
        after: usize,
    },
    /// A part of the text is no depth and no range.
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
    /// The last exit has to be the full model.
    #[error("the last exit must be the full model: it is {last}, the model has {depth} blocks")]
    NotTheFullModel {
        /// The deepest exit given.
        last: usize,
        /// The model's depth.
        depth: usize,
    },
    /// Weights of the exits that weigh nothing, or make no sense.
    #[error(
        "weights of the exits: expected finite numbers, none negative, one above 0; found {found}"
    )]
    Weights {
        /// The weights.
        found: String,
    },
    /// No weights by depth go by this name.
    #[error(
        "no weights of the exits are called {found:?}: expected equal, linear, quadratic, square-root or inverse"
    )]
    NoSuchWeights {
        /// The name.
        found: String,
    },
    /// A curriculum that never moves.
    #[error("{found}: expected at least 1")]
    Curriculum {
        /// What it would do.
        found: &'static str,
    },
    /// No exit is to be drawn.
    #[error("0 exits sampled per micro-batch: expected at least 1")]
    NothingSampled,
}

/// Rows that make no training example or batch.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BatchError {
    /// A row needs a token for every mark and the reverse.
    #[error("an example of {tokens} tokens has {marks} supervision marks: expected one per token")]
    MarksMismatch {
        /// Number of tokens.
        tokens: usize,
        /// Number of supervision marks.
        marks: usize,
    },
    /// Nothing precedes the first token, so nothing predicts it.
    #[error("the first token of an example is marked as supervised, but no position predicts it")]
    FirstTokenSupervised,
    /// A batch of no rows.
    #[error("a batch needs at least one example")]
    NoRows,
    /// A row of no tokens.
    #[error("example {row} of the batch has no tokens")]
    EmptyRow {
        /// Index of the row in the batch.
        row: usize,
    },
    /// A token that the model cannot embed.
    #[error(
        "row {row}, position {position}: token id {token} is outside the vocabulary of {vocab}"
    )]
    OutsideVocabulary {
        /// Row in the batch.
        row: usize,
        /// Position in the row.
        position: usize,
        /// The token id found.
        token: u32,
        /// Number of tokens the model knows.
        vocab: usize,
    },
}

/// A sampler that is none, or scores it cannot sample from.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum SamplingError {
    /// A setting outside its range.
    #[error("sampling: {key} must be {expected}, found {found}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: f64,
    },
    /// The model's score of a token is not a number, or above all numbers.
    #[error("token {token} has the score {score}: expected a finite number, or -inf for never")]
    Score {
        /// The token id.
        token: u32,
        /// Its score, after the repetition penalty.
        score: f64,
    },
    /// Every token is ruled out.
    #[error("no token can be sampled: expected a score above -inf among {vocab}")]
    NothingPossible {
        /// Number of scores.
        vocab: usize,
    },
}

/// An exit policy, or a draft length, that makes no sense.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A threshold outside its range.
    #[error(
        "threshold of {measure}{}: expected a number from {lowest} on, found {found}",
        at_exit(exit)
    )]
    Threshold {
        /// What is compared with the threshold.
        measure: &'static str,
        /// The exit it is for; none when it is for all.
        exit: Option<usize>,
        /// The threshold.
        found: f64,
        /// The lowest that makes sense.
        lowest: f64,
    },
    /// A threshold that is never reached.
    #[error("threshold of {criterion}: expected {lowest} to {highest}, found {found}")]
    Unreachable {
        /// The criterion.
        criterion: &'static str,
        /// The threshold.
        found: f64,
        /// The lowest that makes sense.
        lowest: f64,
        /// The highest.
        highest: f64,
    },
    /// A threshold for an exit that is not there.
    #[error("a threshold is given for exit {exit}: the exits are {exits}")]
    NoSuchExit {
        /// The exit.
        exit: usize,
        /// Those that are there.
        exits: Exits,
    },
    /// A text that gives no thresholds.
    #[error(
        "cannot read a threshold from {part:?}: expected 0.9, or exits with theirs: 12:0.95,20:0.9"
    )]
    Malformed {
        /// The part at fault.
        part: String,
    },
    /// A criterion that is none.
    #[error(
        "expected a criterion (confidence, margin, entropy, saturation, patience), found {found:?}"
    )]
    UnknownCriterion {
        /// What was given.
        found: String,
    },
    /// A text that is no rule.
    #[error(
        "cannot read an exit rule from {found:?}: expected a criterion and its thresholds, such as confidence=0.9 or patience=2"
    )]
    MalformedRule {
        /// What was given.
        found: String,
    },
    /// A patience of no exits.
    #[error("a patience of 0 exits: expected at least 1")]
    NoPatience,
    /// A draft length that drafts nothing.
    #[error("draft length: expected {expected}, found {found}")]
    DraftLength {
        /// What is wrong.
        found: String,
        /// What would be accepted.
        expected: &'static str,
    },
}

fn at_exit(exit: &Option<usize>) -> String {
    exit.map_or(String::new(), |exit| format!(" at exit {exit}"))
}
