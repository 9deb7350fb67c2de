//! The tables that evaluations leave behind.

use serde::{Deserialize, Serialize};
use soft_core::Exit;
use soft_core::model::ScoreSum;
use soft_core::policy::{CalibratedExits, Criterion};

use crate::{
    AnswerScore, Bootstrap, ExitAgreement, ExitScores, Interval, JudgeQuality, PairwiseScore,
    PolicyOutcome, Setting, SpeedFigures,
};

/// Loss and accuracy at every exit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitTable {
    /// The model's name in tables.
    pub model: String,
    /// What it was scored on.
    pub data: String,
    /// One row per exit.
    pub rows: Vec<ExitRow>,
}

/// One exit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitRow {
    /// Means over tokens.
    pub scores: ExitScores,
    /// The loss with its interval, texts resampled.
    pub loss: Option<Interval>,
}

/// Answers to questions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerTable {
    /// The model's name in tables.
    pub model: String,
    /// The questions.
    pub data: String,
    /// Number of questions.
    pub questions: u64,
    /// One row per way of decoding.
    pub rows: Vec<AnswerRow>,
}

/// One way of decoding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerRow {
    /// The way: `exit=12`, `dynamic`, `speculative=12`.
    pub mode: String,
    /// The exit, where it is one for all tokens.
    pub exit: Option<Exit>,
    /// Share equal to an accepted answer to the letter.
    pub exact_match: Interval,
    /// Share equal after TriviaQA's normalization.
    pub exact_match_normalized: Interval,
    /// Mean of the best F1.
    pub f1: Interval,
}

impl AnswerRow {
    /// Means over questions; none without questions.
    pub fn of(mode: impl Into<String>, exit: Option<Exit>, scores: &[AnswerScore]) -> Option<Self> {
        let share = |right: fn(&&AnswerScore) -> bool| {
            Interval::of_share(scores.iter().filter(right).count(), scores.len())
        };
        let f1: Vec<f64> = scores.iter().map(|score| score.f1).collect();
        Some(Self {
            mode: mode.into(),
            exit,
            exact_match: share(|score| score.exact)?,
            exact_match_normalized: share(|score| score.normalized)?,
            f1: Bootstrap::default().mean(&f1)?,
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
        }
    }
}

impl DifferenceRow {
    /// Ours less theirs, over the same rows; none when there is nothing to compare, or when there
    /// are not as many rows and tokens of both.
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

/// Two models on the same texts: ours less theirs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DifferenceTable {
    /// The model whose figures come first.
    pub ours: String,
    /// The model they are compared with.
    pub theirs: String,
    /// The texts.
    pub data: String,
    /// One row per exit; the full depth's is the full-depth tax.
    pub rows: Vec<DifferenceRow>,
}

/// One exit of both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DifferenceRow {
    /// The exit.
    pub exit: Exit,
    /// Loss in nats per token, ours less theirs.
    pub loss: Interval,
    /// Theirs, to compare with.
    pub their_loss: f64,
    /// Accuracy, from −1 to 1.
    pub accuracy: Interval,
    /// Answers, where questions were asked.
    pub answers: Option<AnswerDifference>,
}

/// Answers of two models to the same questions: ours less theirs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerDifference {
    /// Share equal to an accepted answer to the letter.
    pub exact_match: Interval,
    /// Share equal after TriviaQA's normalization.
    pub exact_match_normalized: Interval,
    /// Mean of the best F1.
    pub f1: Interval,
}

impl AnswerDifference {
    /// Over the same questions in the same order; none without questions, or when there are not as
    /// many of both.
    pub fn of(ours: &[AnswerScore], theirs: &[AnswerScore]) -> Option<Self> {
        let difference = |of: fn(&AnswerScore) -> f64| {
            let values = |scores: &[AnswerScore]| scores.iter().map(of).collect::<Vec<_>>();
            Bootstrap::default().difference(&values(ours), &values(theirs))
        };
        Some(Self {
            exact_match: difference(|score| f64::from(u8::from(score.exact)))?,
            exact_match_normalized: difference(|score| f64::from(u8::from(score.normalized)))?,
            f1: difference(|score| score.f1)?,
        })
    }
}

/// Exits of a model beside the full depth of another, or of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgreementTable {
    /// The model with the exits.
    pub model: String,
    /// The model whose full depth is compared with.
    pub reference: String,
    /// The prompts whose answers are read.
    pub data: String,
    /// One row per exit.
    pub exits: Vec<ExitAgreement>,
}

/// Responses compared by a judge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgedTable {
    /// Who judged.
    pub judge: String,
    /// The instructions.
    pub data: String,
    /// One row per pair of sub-models.
    pub rows: Vec<JudgedRow>,
}

/// One sub-model against another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgedRow {
    /// The model whose score it is.
    pub ours: String,
    /// Its exit.
    pub exit: Exit,
    /// The other model.
    pub theirs: String,
    /// Its exit.
    pub their_exit: Exit,
    /// How ours did.
    pub score: PairwiseScore,
}

/// A judge compared with people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgeQualityTable {
    /// The judge.
    pub judge: String,
    /// The people's verdicts.
    pub data: String,
    /// How well it did.
    pub quality: JudgeQuality,
}

/// Thresholds with a promise, for every criterion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibrationTable {
    /// The model's name in tables.
    pub model: String,
    /// The texts.
    pub data: String,
    /// One row per criterion, the one recommended first.
    pub rows: Vec<CalibrationRow>,
}

/// One criterion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibrationRow {
    /// Its criterion.
    pub criterion: Criterion,
    /// The rule and its promise.
    pub calibrated: CalibratedExits,
    /// On the texts that candidates were made on.
    pub tuning: PolicyOutcome,
    /// On the texts it was tested with.
    pub tested: PolicyOutcome,
    /// On texts that took no part.
    pub checked: PolicyOutcome,
    /// Of so many random splits, in how many texts that took no part kept the promise.
    pub kept: Option<(u64, u64)>,
    /// Whether texts of this number and length could have shown the promise to hold at all.
    pub provable: bool,
}

/// Ways of decoding, measured side by side; the first is plain decoding.
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
    /// Speed and agreement of each mode, in the same order.
    pub settings: Vec<Setting>,
    /// Index of the recommended mode.
    pub recommended: Option<usize>,
    /// Least agreement that was asked for in the recommendation.
    pub least_agreement: f64,
}

/// Answers to read side by side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleTable {
    /// What was asked.
    pub prompt: String,
    /// An accepted answer, where there is one.
    pub wanted: Option<String>,
    /// The deepest depth, for colors.
    pub depth: usize,
    /// One answer per model and way of decoding.
    pub answers: Vec<Sample>,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The model.
    pub model: String,
    /// The way of decoding.
    pub mode: String,
    /// The text, piece by piece with the depth that named it.
    pub pieces: Vec<(String, usize)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(nats: f64, targets: u64, correct: u64) -> ScoreSum {
        ScoreSum {
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
        // Every text is worse by a nat per token, so every resample is.
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
