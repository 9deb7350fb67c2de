//! Evaluation of nested models: quality and cost of every exit, with confidence intervals.
//!
//! Works with every implementation of soft-core's traits and depends on no tensor library.
//!
//! | task | API |
//! | --- | --- |
//! | loss, perplexity and accuracy of every exit | [`exit_scores`] |
//! | exact match and F1 of answers | [`exact_match`], [`exact_match_normalized`], [`f1`], [`AnswerScore`] |
//! | tasks of lm-evaluation-harness | [`lm_eval`] |
//! | unigram and bigram baselines that never read the prompt | [`Baselines`] |
//! | confidence intervals of shares and their differences; of losses | [`Interval`], [`Bootstrap`] |
//! | agreement of every exit with the full depth | [`Pairing`] |
//! | pairwise comparison of responses | [`judge_pairs`] with a [`Judge`]: [`VerdictLikelihood`], [`ResponseLikelihood`], [`VerdictFile`], `ChatJudge` (feature `http`) |
//! | agreement of a judge with people | [`judge_quality`](judge_quality()) |
//! | exit thresholds for a limit on disagreement | [`trace`](trace()), [`calibrate`] |
//! | learned exit probes | [`trace_states`], [`fit_probes`] |
//! | speed of decoding modes | [`SpeedMeter`], [`frontier`](frontier()) |
//!
//! [`Journal`] and [`VerdictFile`] store results as they are computed, so that an interrupted
//! evaluation can be resumed. [`results`] are the tables that evaluations write; the feature
//! `report` turns them into HTML, Markdown and figures.
//!
//! ```
//! use soft_core::Exits;
//! use soft_core::policy::Criterion;
//! use soft_core::toy::ToyModel;
//! use soft_eval::{CalibrationSettings, calibrate, trace};
//!
//! let model = ToyModel::new(4, 6, 12, 3).restless();
//! let exits: Exits = "1,2,4".parse()?;
//! // What every exit predicts in 40 texts, after their first two tokens.
//! let text = |i: u32| (0..20).map(|j| (i * i + 3 * j) % 12).collect();
//! let texts: Vec<Vec<u32>> = (0..40).map(text).collect();
//! let traces = texts.iter().map(|text| trace(&model, &exits, text, 1..19));
//! let traces = traces.collect::<Result<Vec<_>, _>>()?;
//! // With 95 % confidence, at most half of the tokens differ from the full model's.
//! let settings = CalibrationSettings::at_most(0.5, 20);
//! let found = calibrate(Criterion::Margin, &exits, &traces, &settings)?;
//! assert!(found.tested.disagreement() < 0.5);
//! println!("{}: mean depth {:.1}", found.calibrated.rule, found.calibrated.mean_depth);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod agreement;
mod answers;
mod baselines;
mod bootstrap;
mod calibration;
mod candidates;
#[cfg(feature = "http")]
mod chat_judge;
mod error;
mod exit_scores;
mod files;
mod frontier;
mod interval;
mod journal;
mod json_lines;
mod judge;
mod judge_quality;
mod likelihood_judge;
pub mod lm_eval;
pub mod numbers;
mod pairwise;
mod probe_fit;
#[cfg(feature = "report")]
pub mod report;
pub mod results;
mod speed;
mod trace;
mod verdict_file;

pub use agreement::{AnsweredPrompt, ExitAgreement, Pairing, PositionAgreement};
pub use answers::{AnswerScore, exact_match, exact_match_normalized, f1, normalize};
pub use baselines::{Baseline, BaselineScores, Baselines};
pub use bootstrap::Bootstrap;
pub use calibration::{Calibration, CalibrationSettings, calibrate, shuffle};
#[cfg(feature = "http")]
pub use chat_judge::{ChatJudge, ChatSettings};
pub use error::EvalError;
pub use exit_scores::{ExitScores, exit_scores, row_scores};
pub use frontier::{Setting, fastest, frontier};
pub use interval::Interval;
pub use journal::Journal;
pub use judge::{Comparison, Judge, Judgement, Verdict, judge_prompt};
pub use judge_quality::{HumanVerdict, JudgeQuality, judge_quality, read_pandalm};
pub use likelihood_judge::{Encode, ResponseLikelihood, VerdictLikelihood, log_likelihoods};
pub use pairwise::{Pair, PairwiseScore, judge_pairs};
pub use probe_fit::fit_probes;
pub use speed::{SpeedFigures, SpeedMeter, SpeedMode, SpeedSample, speed_figures};
pub use trace::{
    EarlyTrace, HeadCosts, PolicyExit, PolicyOutcome, TokenTrace, TracedStates, Tracing, trace,
    trace_states,
};
pub use verdict_file::VerdictFile;

/// The README's Rust code, as a documentation test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
