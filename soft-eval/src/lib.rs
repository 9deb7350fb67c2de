//! From nested models to figures: how good is every exit?
//!
//! Works on any backend of soft-core's traits and knows no tensor library.
//!
//! - [`exit_scores`]: loss, perplexity and next-token accuracy at every exit;
//! - [`exact_match`], [`exact_match_normalised`], [`f1`]: answers to questions, as TriviaQA scores them;
//! - [`AnswerScores`]: those over many questions.

mod answers;
mod exit_scores;

pub use answers::{exact_match, exact_match_normalised, f1, normalise};
pub use exit_scores::{AnswerScores, ExitScores, exit_scores};
