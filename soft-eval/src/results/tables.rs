//! Tables of results.

use serde::{Deserialize, Serialize};
use soft_core::Exit;
use soft_core::model::ScoreSum;
use soft_core::policy::{CalibratedExits, Criterion};

use crate::{
    AnswerScore, BaselineScores, Bootstrap, ExitAgreement, ExitScores, Interval, JudgeQuality,
    PairwiseScore, PolicyOutcome, Setting, SpeedFigures,
};

/// Loss and accuracy at every exit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitTable {
    /// The model's name in tables.
    pub model: String,
    /// The name of the data in tables.
    pub data: String,
    /// One row per exit.
    pub rows: Vec<ExitRow>,
    /// Baselines that never read the prompt, if they were fitted.
    #[serde(default)]
    pub baselines: Vec<BaselineScores>,
}

/// One exit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitRow {
    /// Means over tokens.
    pub scores: ExitScores,
    /// The loss with its interval, resampled by text.
    pub loss: Option<Interval>,
    /// The bigram's loss less this one, in nats per token, if baselines were fitted.
    #[serde(default)]
    pub skill: Option<Interval>,
}

/// Scores of answers to questions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerTable {
    /// The model's name in tables.
    pub model: String,
    /// The name of the questions in tables.
    pub data: String,
    /// Number of questions.
    pub questions: u64,
    /// One row per decoding mode.
    pub rows: Vec<AnswerRow>,
}

/// Scores of one decoding mode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerRow {
    /// The mode: `exit=12`, `dynamic`, `speculative=12`.
    pub mode: String,
    /// The exit, if it is the same for all tokens.
    pub exit: Option<Exit>,
    /// Share of exact matches without normalization.
    pub exact_match: Interval,
    /// Share of exact matches after TriviaQA's normalization.
    pub exact_match_normalized: Interval,
    /// Mean F1 against the best accepted answer.
    pub f1: Interval,
}

impl AnswerRow {
    /// Means over questions. `None` without questions.
    pub fn of(mode: impl Into<String>, exit: Option<Exit>, scores: &[AnswerScore]) -> Option<Self> {
        let share = |of: fn(&AnswerScore) -> f64| {
            let questions = scores.iter().map(|score| (of(score), 1.0));
            Interval::of_share(&questions.collect::<Vec<_>>())
        };
        Some(Self {
            mode: mode.into(),
            exit,
            exact_match: share(|score| score.exact.into())?,
            exact_match_normalized: share(|score| score.normalized.into())?,
            f1: share(|score| score.f1)?,
        })
    }
}

impl ExitRow {
    /// Means over the tokens of these rows.
    pub fn of(exit: Exit, rows: &[ScoreSum]) -> Self {
        let parts = rows.iter().map(|row| (row.nats, row.targets as f64));
        Self {
            scores: ExitScores::of(exit, rows),
            loss: Bootstrap::default().ratio(&parts.collect::<Vec<_>>()),
            skill: None,
        }
    }

    /// The same with the skill over the scores of the bigram on the same rows.
    #[must_use]
    pub fn beside(self, ours: &[ScoreSum], bigram: &[ScoreSum]) -> Self {
        let pairs = bigram.iter().zip(ours);
        let parts = pairs.map(|(bigram, ours)| (bigram.nats - ours.nats, ours.targets as f64));
        Self {
            skill: Bootstrap::default().ratio(&parts.collect::<Vec<_>>()),
            ..self
        }
    }
}

impl DifferenceRow {
    /// Ours − theirs, over the same rows. `None` if there are no tokens, or if rows or tokens
    /// differ in number.
    pub fn of(exit: Exit, ours: &[ScoreSum], theirs: &[ScoreSum]) -> Option<Self> {
        let tokens = |rows: &[ScoreSum]| rows.iter().map(|row| row.targets).collect::<Vec<_>>();
        if tokens(ours) != tokens(theirs) {
            return None;
        }
        let bootstrap = Bootstrap::default();
        let mean = |rows: &[ScoreSum], sample: &[usize], of: fn(&ScoreSum) -> f64| {
            let sum: f64 = sample.iter().map(|&index| of(&rows[index])).sum();
            let tokens: u64 = sample.iter().map(|&index| rows[index].targets).sum();
            sum / tokens as f64
        };
        let difference = |of: fn(&ScoreSum) -> f64| {
            bootstrap.interval(ours.len(), |sample| {
                let sample: Vec<usize> = sample.collect();
                mean(ours, &sample, of) - mean(theirs, &sample, of)
            })
        };
        Some(Self {
            exit,
            loss: difference(|row| row.nats)?,
            their_loss: ExitScores::of(exit, theirs).loss,
            accuracy: difference(|row| row.correct as f64)?,
            answers: None,
        })
    }
}

/// Paired differences of two models on the same texts, ours − theirs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DifferenceTable {
    /// The first model.
    pub ours: String,
    /// The second model.
    pub theirs: String,
    /// The texts.
    pub data: String,
    /// One row per exit. That of the full depth is the full-depth tax.
    pub rows: Vec<DifferenceRow>,
}

/// The differences at one exit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DifferenceRow {
    /// The exit.
    pub exit: Exit,
    /// Difference of the losses in nats per token.
    pub loss: Interval,
    /// The loss of the second model.
    pub their_loss: f64,
    /// Difference of the accuracies, from −1 to 1.
    pub accuracy: Interval,
    /// Differences of the answers, if questions were asked.
    pub answers: Option<AnswerDifference>,
}

/// Paired differences of the answers of two models, ours − theirs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerDifference {
    /// Share of exact matches without normalization.
    pub exact_match: Interval,
    /// Share of exact matches after TriviaQA's normalization.
    pub exact_match_normalized: Interval,
    /// Mean F1 against the best accepted answer.
    pub f1: Interval,
}

impl AnswerDifference {
    /// Over the same questions in the same order. `None` without questions, or if the lengths
    /// differ.
    pub fn of(ours: &[AnswerScore], theirs: &[AnswerScore]) -> Option<Self> {
        if ours.len() != theirs.len() {
            return None;
        }
        let difference = |of: fn(&AnswerScore) -> f64| {
            let pairs = ours.iter().zip(theirs);
            let questions = pairs.map(|(ours, theirs)| (of(ours) - of(theirs), 1.0));
            Interval::of_differences(&questions.collect::<Vec<_>>())
        };
        Some(Self {
            exact_match: difference(|score| score.exact.into())?,
            exact_match_normalized: difference(|score| score.normalized.into())?,
            f1: difference(|score| score.f1)?,
        })
    }
}

/// Agreement of the exits of a model with the full depth of another, or of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgreementTable {
    /// The model with the exits.
    pub model: String,
    /// The model whose full depth is the reference.
    pub reference: String,
    /// The prompts that the compared texts answer.
    pub data: String,
    /// One row per exit.
    pub exits: Vec<ExitAgreement>,
}

/// Pairs of responses compared by a judge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgedTable {
    /// The judge.
    pub judge: String,
    /// The instructions.
    pub data: String,
    /// One row per pair of sub-models.
    pub rows: Vec<JudgedRow>,
}

/// The score of one exit against another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgedRow {
    /// Our model, whose score it is.
    pub ours: String,
    /// Its exit.
    pub exit: Exit,
    /// The other model.
    pub theirs: String,
    /// Its exit.
    pub their_exit: Exit,
    /// The score of our model.
    pub score: PairwiseScore,
}

/// Agreement of a judge with people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgeQualityTable {
    /// The judge.
    pub judge: String,
    /// The data with verdicts of people.
    pub data: String,
    /// The figures.
    pub quality: JudgeQuality,
}

/// Calibrated thresholds of every criterion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibrationTable {
    /// The model's name in tables.
    pub model: String,
    /// The texts.
    pub data: String,
    /// One row per criterion, the recommended one first.
    pub rows: Vec<CalibrationRow>,
}

/// The calibration of one criterion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibrationRow {
    /// The criterion.
    pub criterion: Criterion,
    /// The rule and its guarantee.
    pub calibrated: CalibratedExits,
    /// Result on the texts that candidates were made on.
    pub tuning: PolicyOutcome,
    /// Result on the texts of the test.
    pub tested: PolicyOutcome,
    /// Result on held-out texts.
    pub checked: PolicyOutcome,
    /// Estimated cost of a token there in blocks and heads, as a share of plain decoding's.
    #[serde(default)]
    pub cost: Option<f64>,
    /// Share of disagreeing tokens on the texts that dynamic decoding writes for the held-out
    /// prompts, where it was measured.
    #[serde(default)]
    pub own_text: Option<Interval>,
    /// In how many random splits the limit held on the held-out texts, and the number of splits.
    pub kept: Option<(u64, u64)>,
    /// Whether texts of this number and length could prove the limit if no token disagreed.
    pub provable: bool,
}

/// Speed of decoding modes, the first of which is plain decoding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpeedTable {
    /// The model's name in tables.
    pub model: String,
    /// The prompts.
    pub data: String,
    /// Number of prompts.
    pub prompts: u64,
    /// One row per mode.
    pub rows: Vec<SpeedFigures>,
    /// Speed and agreement of the modes, in the same order.
    pub settings: Vec<Setting>,
    /// Index of the recommended mode.
    pub recommended: Option<usize>,
    /// Minimum agreement of the recommended mode.
    pub least_agreement: f64,
}

/// Answers to one prompt, to compare.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleTable {
    /// The prompt.
    pub prompt: String,
    /// An accepted answer, if there is one.
    pub wanted: Option<String>,
    /// The full depth, which scales the colors.
    pub depth: usize,
    /// One answer per model and decoding mode.
    pub answers: Vec<Sample>,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The model.
    pub model: String,
    /// The decoding mode.
    pub mode: String,
    /// The pieces of the text, with the depths of their exits.
    pub pieces: Vec<(String, usize)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(nats: f64, targets: u64, correct: u64) -> ScoreSum {
        ScoreSum {
            ends: 0,
            correct_ends: 0,
            nats,
            correct,
            targets,
        }
    }

    #[test]
    fn differences_are_those_of_the_means_over_tokens() {
        let ours = [sum(4.0, 2, 1), sum(9.0, 3, 0)];
        let theirs = [sum(2.0, 2, 2), sum(6.0, 3, 1)];
        let row = DifferenceRow::of(Exit::new(4).unwrap(), &ours, &theirs).unwrap();
        assert!((row.loss.estimate - (13.0 - 8.0) / 5.0).abs() < 1e-12);
        assert!((row.their_loss - 1.6).abs() < 1e-12);
        assert!((row.accuracy.estimate - (1.0 - 3.0) / 5.0).abs() < 1e-12);
        // Every text is worse by 1 nat per token, and so is every resample.
        assert!((row.loss.low - 1.0).abs() < 1e-12 && (row.loss.high - 1.0).abs() < 1e-12);
        assert!(DifferenceRow::of(Exit::new(4).unwrap(), &[], &[]).is_none());
        let others = [sum(2.0, 2, 2), sum(6.0, 4, 1)];
        assert!(DifferenceRow::of(Exit::new(4).unwrap(), &ours, &others).is_none());
    }

    #[test]
    fn answers_are_averaged() {
        let scores = [
            AnswerScore::of("Paris", &["Paris", "City of Light"]),
            AnswerScore::of("a rome", &["Rome", "Roma"]),
            AnswerScore::of("Oslo", &["Bergen", "x"]),
        ];
        let row = AnswerRow::of("exit=4", None, &scores).unwrap();
        assert!((row.exact_match.estimate - 1.0 / 3.0).abs() < 1e-12);
        assert!((row.exact_match_normalized.estimate - 2.0 / 3.0).abs() < 1e-12);
        assert!((row.f1.estimate - 2.0 / 3.0).abs() < 1e-12);
    }
}
