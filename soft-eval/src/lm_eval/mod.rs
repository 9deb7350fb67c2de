//! Tasks, scores and result files of EleutherAI's lm-evaluation-harness.
//!
//! Its questions, filters and metrics, so that the scores of a sub-model are comparable with
//! published ones, and its result files, so that scripts for it read ours. A sub-model is a model
//! of its own, with its own files.
//!
//! Source: lm-eval 0.4.13, tasks arc, boolq, hellaswag, piqa and triviaqa with no examples in the
//! prompt (0-shot).

mod results;
mod scores;
mod task;

pub use results::{Results, Sample};
pub use scores::{ChoiceScores, choice_scores, matches_any};
pub use task::{Asked, Document, Task};

/// Text between a question and what is scored.
pub const DELIMITER: &str = " ";

/// Text that ends an answer to a question of TriviaQA.
pub const STOPS: [&str; 3] = ["\n", ".", ","];

/// Maximum number of tokens of an answer, lm-eval's default.
pub const MAX_NEW_TOKENS: usize = 256;
