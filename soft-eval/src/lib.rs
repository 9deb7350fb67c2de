//! From nested models to figures: how good is every exit?
mod agreement;
mod answers;
mod bootstrap;
mod calibration;
mod candidates;
#[cfg(feature = "http")]
mod chat_judge;
mod error;
mod exit_scores;
mod frontier;
mod journal;
mod judge;
mod judge_quality;
mod likelihood_judge;
mod pairwise;
mod speed;
mod trace;
mod verdict_file;
pub use agreement::{AnsweredPrompt, ExitAgreement, PositionAgreement, agreement};
pub use answers::{exact_match, exact_match_normalised, f1, normalise};
pub use bootstrap::{Bootstrap, Interval};
pub use calibration::{Calibration, CalibrationSettings, calibrate};
#[cfg(feature = "http")]
pub use chat_judge::{ChatJudge, ChatSettings};
pub use error::EvalError;
pub use exit_scores::{AnswerScores, ExitScores, exit_scores};
pub use frontier::{Setting, fastest, frontier};
pub use journal::Journal;
pub use judge::{Comparison, Judge, Judgement, Verdict, judge_prompt};
pub use judge_quality::{HumanVerdict, JudgeQuality, judge_quality, read_pandalm};
pub use likelihood_judge::{Encode, ResponseLikelihood, VerdictLikelihood, log_likelihoods};
pub use pairwise::{Pair, PairwiseScore, judge_pairs};
pub use speed::{SpeedFigures, SpeedMode, SpeedRun, measure_speed, speed_figures};
pub use trace::{EarlyTrace, Left, PolicyOutcome, TokenTrace, trace};
pub use verdict_file::VerdictFile;
