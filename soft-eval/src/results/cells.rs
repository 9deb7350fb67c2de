//! Rows of tables as text: the same cells on a terminal and in a report.

use super::{CalibrationRow, DifferenceRow, ExitRow, JudgedRow};
use crate::numbers::{interval, number, percent, percent_interval, points, signed_interval};
use crate::{BaselineScores, Interval};

/// What stands in the place of a figure that was not measured.
const NOTHING: &str = "–";

impl ExitRow {
    /// The loss in nats per token, with its 95 % interval where there is one.
    pub fn loss_cell(&self) -> String {
        self.loss
            .map_or_else(|| number(self.scores.loss), |loss| interval(&loss))
    }

    /// The accuracy without stop tokens, in percent.
    pub fn without_ends_cell(&self) -> String {
        let accuracy = self.scores.accuracy_without_ends;
        accuracy.map_or(NOTHING.to_owned(), percent)
    }

    /// The nats per token below the bigram's loss, with the 95 % interval where there is one.
    pub fn skill_cell(&self) -> String {
        let skill = self.skill.as_ref();
        skill.map_or(NOTHING.to_owned(), |skill| signed_interval(skill, 3))
    }
}

impl BaselineScores {
    /// The name, loss, perplexity and accuracies in percent.
    pub fn cells(&self) -> [String; 5] {
        [
            self.baseline.name().to_owned(),
            interval(&self.loss),
            number(self.loss.estimate.exp()),
            percent(self.accuracy),
            self.accuracy_without_ends
                .map_or(NOTHING.to_owned(), percent),
        ]
    }
}

impl DifferenceRow {
    /// Headings of [`Self::cells`].
    pub const HEADINGS: [&str; 7] = [
        "exit",
        "loss, nats",
        "loss, %",
        "accuracy, points",
        "EM, points",
        "EM normalized, points",
        "F1, points",
    ];

    /// The differences with their 95 % intervals.
    pub fn cells(&self) -> Vec<String> {
        let points = |value: &Interval| signed_interval(&value.scaled(100.0), 1);
        let answers = match &self.answers {
            Some(answers) => [
                points(&answers.exact_match),
                points(&answers.exact_match_normalized),
                points(&answers.f1),
            ],
            None => [NOTHING; 3].map(str::to_owned),
        };
        let mut cells = vec![
            self.exit.to_string(),
            signed_interval(&self.loss, 3),
            signed_interval(&self.loss_percent(), 1),
            points(&self.accuracy),
        ];
        cells.extend(answers);
        cells
    }

    /// The difference of the losses in percent of the second model's.
    pub fn loss_percent(&self) -> Interval {
        self.loss.scaled(100.0 / self.their_loss)
    }
}

impl JudgedRow {
    /// Headings of [`Self::cells`].
    pub const HEADINGS: [&str; 7] = [
        "pair",
        "score [95 %]",
        "wins",
        "losses",
        "ties",
        "unclear replies",
        "same in both orders %",
    ];

    /// The pair and its score; a win in one of the two orders counts a half.
    pub fn cells(&self) -> Vec<String> {
        let score = &self.score;
        vec![
            format!(
                "{} exit {} against {} exit {}",
                self.ours, self.exit, self.theirs, self.their_exit
            ),
            signed_interval(&score.score, 3),
            points(score.wins),
            points(score.losses),
            points(score.ties),
            score.unclear.to_string(),
            percent(score.consistent),
        ]
    }
}

impl CalibrationRow {
    /// Headings of [`Self::cells`].
    pub const HEADINGS: [&str; 9] = [
        "criterion",
        "rule",
        "disagree in calibration %",
        "disagree on other texts %",
        "on its own text %",
        "mean depth",
        "heads/token",
        "cost %",
        "splits within the limit",
    ];

    /// The calibrated rule and what it does.
    pub fn cells(&self) -> Vec<String> {
        vec![
            self.criterion.to_string(),
            self.calibrated.rule.to_string(),
            percent(self.tested.disagreement()),
            percent(self.checked.disagreement()),
            self.own_text
                .as_ref()
                .map_or(NOTHING.to_owned(), percent_interval),
            format!("{:.1}", self.checked.mean_depth),
            format!("{:.2}", self.checked.heads_per_token),
            self.cost.map_or(NOTHING.to_owned(), percent),
            self.kept
                .map_or(NOTHING.to_owned(), |(kept, of)| format!("{kept} of {of}")),
        ]
    }
}
