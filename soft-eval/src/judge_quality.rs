//! Agreement of a judge with people.
//!
//! Meant for PandaLM's test set (arXiv 2306.05087): pairs of responses with verdicts of three
//! annotators. The verdict of the people is that of the majority. The judge sees each pair in both
//! orders; contradictory verdicts count as a tie.
//!
//! A majority of three is easier to agree with than one annotator. So the judge and each annotator
//! in turn are also compared with the other two, where these agree (leave-one-out).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::files::read_text;
use crate::{Comparison, EvalError, Interval, Judge, Verdict, VerdictFile};

/// A pair of responses that people have judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HumanVerdict {
    /// The instruction.
    pub instruction: String,
    /// Input of the instruction; may be empty.
    pub input: String,
    /// The first response.
    pub first: String,
    /// The second response.
    pub second: String,
    /// Each annotator's verdict.
    pub verdicts: Vec<Verdict>,
}

/// A row of PandaLM's test set; other keys are ignored.
#[derive(Deserialize)]
struct Row {
    instruction: Scalar,
    #[serde(default)]
    input: Scalar,
    response1: Scalar,
    response2: Scalar,
    annotator1: u8,
    annotator2: u8,
    annotator3: u8,
}

/// A text, or the value that a conversion through YAML made of it, such as the input `true` of one
/// row of the test set.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Text(String),
    Number(serde_json::Number),
    Truth(bool),
    Null(()),
}

impl Default for Scalar {
    fn default() -> Self {
        Self::Null(())
    }
}

impl From<Scalar> for String {
    fn from(scalar: Scalar) -> Self {
        match scalar {
            Scalar::Text(text) => text,
            Scalar::Number(number) => number.to_string(),
            Scalar::Truth(truth) => truth.to_string(),
            Scalar::Null(()) => Self::new(),
        }
    }
}

/// Reads PandaLM's `testset-v1.json`: 0 is a tie, 1 and 2 the better response.
///
/// # Errors
/// If the file cannot be read or has another format.
pub fn read_pandalm(path: impl AsRef<std::path::Path>) -> Result<Vec<HumanVerdict>, EvalError> {
    let path = path.as_ref();
    let text = read_text(path)?;
    let content = |found: String| EvalError::Content {
        path: path.to_owned(),
        line: None,
        expected: "an array of {\"instruction\", \"input\", \"response1\", \"response2\", \"annotator1\", \"annotator2\", \"annotator3\"} with verdicts 0, 1 or 2",
        found,
    };
    let rows: Vec<Row> = serde_json::from_str(&text).map_err(|error| content(error.to_string()))?;
    let numbered = rows.into_iter().enumerate();
    let read = numbered.map(|(index, row)| {
        let verdict = |number: u8| match number {
            0 => Ok(Verdict::Tie),
            1 => Ok(Verdict::First),
            2 => Ok(Verdict::Second),
            _ => Err(content(format!("verdict {number} in row {}", index + 1))),
        };
        let verdicts = [row.annotator1, row.annotator2, row.annotator3];
        Ok(HumanVerdict {
            verdicts: verdicts
                .into_iter()
                .map(verdict)
                .collect::<Result<_, _>>()?,
            instruction: row.instruction.into(),
            input: row.input.into(),
            first: row.response1.into(),
            second: row.response2.into(),
        })
    });
    read.collect()
}

impl HumanVerdict {
    /// The verdict with the most votes; `None` if several have as many.
    pub fn majority(&self) -> Option<Verdict> {
        let count = |wanted: Verdict| self.verdicts.iter().filter(|v| **v == wanted).count();
        let most = Verdict::CLEAR.into_iter().map(count).max()?;
        let mut winners = Verdict::CLEAR.into_iter().filter(|v| count(*v) == most);
        let winner = winners.next().filter(|_| most > 0);
        winner.filter(|_| winners.next().is_none())
    }

    fn comparison(&self) -> Comparison<'_> {
        Comparison {
            instruction: &self.instruction,
            input: &self.input,
            first: &self.first,
            second: &self.second,
        }
    }
}

/// Agreement of a judge with people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgeQuality {
    /// Number of judged pairs, which all have a majority.
    pub pairs: u64,
    /// Number of pairs without a majority, which are left out.
    pub without_majority: u64,
    /// Share of pairs on which the judge agrees with the majority.
    pub accuracy: Interval,
    /// Mean F1 over the three verdicts.
    pub macro_f1: f64,
    /// Cohen's kappa of judge and majority: agreement beyond chance, at most 1.
    pub kappa: f64,
    /// Cohen's kappa of two annotators on the same pairs.
    pub human_kappa: f64,
    /// Share of agreement of the judge with two annotators that agree, over all such two.
    pub leave_one_out: Interval,
    /// The same for the third annotator.
    pub human_leave_one_out: Interval,
    /// Share of pairs with the same verdict in both orders.
    pub consistent: f64,
    /// Number of replies that are not verdicts, of two per pair. They count as ties.
    pub unclear: u64,
}

/// Judges the pairs in both orders, except those with a verdict in `verdicts`, and compares the
/// verdicts with those of people.
///
/// # Errors
/// If no pair has a majority or the judge gives no reply; I/O errors.
pub fn judge_quality(
    people: &[HumanVerdict],
    judge: &mut dyn Judge,
    verdicts: &mut VerdictFile,
    mut progress: impl FnMut(),
) -> Result<JudgeQuality, EvalError> {
    let (mut pairs, mut among) = (Vec::new(), Vec::new());
    let (mut consistent, mut unclear) = (0, 0);
    let mut others = Vec::new();
    for human in people {
        progress();
        let Some(wanted) = human.majority() else {
            continue;
        };
        let mut ask = |comparison: Comparison| -> Result<Verdict, EvalError> {
            if let Some(verdict) = verdicts.get(&comparison) {
                return Ok(verdict);
            }
            let judgement = judge.compare(&comparison)?;
            verdicts.record(&comparison, &judgement)?;
            Ok(judgement.verdict)
        };
        let one = ask(human.comparison())?;
        let other = ask(human.comparison().reversed())?.reversed();
        consistent += u64::from(one == other);
        unclear += [one, other]
            .into_iter()
            .filter(|v| *v == Verdict::Unclear)
            .count() as u64;
        let found = both_orders(one, other);
        pairs.push((wanted, found));
        others.push(beside_the_others(human, found));
        // Only pairs with a majority: annotators agree more on these than on all.
        among.extend(pairs_of_annotators(human));
    }
    let accuracy = Interval::of_trials(pairs.iter().map(|(wanted, found)| wanted == found));
    let share = |of: fn(&LeftOut) -> f64| {
        let shares = others.iter().map(|left_out| (of(left_out), left_out.twos));
        Interval::of_share(&shares.collect::<Vec<_>>())
    };
    let none = || EvalError::Setting {
        setting: "people's verdicts",
        expected: "at least one pair with a majority",
        found: "none".to_owned(),
    };
    Ok(JudgeQuality {
        pairs: pairs.len() as u64,
        without_majority: (people.len() - pairs.len()) as u64,
        accuracy: accuracy.ok_or_else(none)?,
        macro_f1: macro_f1(&pairs),
        kappa: kappa(&pairs),
        human_kappa: kappa(&among),
        leave_one_out: share(|it| it.judge).ok_or_else(none)?,
        human_leave_one_out: share(|it| it.people).ok_or_else(none)?,
        consistent: consistent as f64 / pairs.len() as f64,
        unclear,
    })
}

/// Combines the verdicts of both orders: equal ones are kept, contradictory ones make a tie, and a
/// tie with one side makes that side.
fn both_orders(one: Verdict, other: Verdict) -> Verdict {
    let value = |verdict| match verdict {
        Verdict::First => 1,
        Verdict::Second => -1,
        Verdict::Tie | Verdict::Unclear => 0,
    };
    match value(one) + value(other) {
        1.. => Verdict::First,
        0 => Verdict::Tie,
        _ => Verdict::Second,
    }
}

/// Two annotators of a pair that agree, for each third left out.
struct LeftOut {
    /// How many such two there are.
    twos: f64,
    /// With how many of them the judge agrees.
    judge: f64,
    /// With how many of them the third annotator agrees.
    people: f64,
}

fn beside_the_others(human: &HumanVerdict, judge: Verdict) -> LeftOut {
    let mut counts = LeftOut {
        twos: 0.0,
        judge: 0.0,
        people: 0.0,
    };
    for (left_out, third) in human.verdicts.iter().enumerate() {
        let others = human.verdicts.iter().enumerate();
        let mut others = others.filter(|(index, _)| *index != left_out);
        let Some((_, wanted)) = others.next() else {
            continue;
        };
        if others.all(|(_, other)| other == wanted) {
            counts.twos += 1.0;
            counts.judge += f64::from(u8::from(judge == *wanted));
            counts.people += f64::from(u8::from(third == wanted));
        }
    }
    counts
}

fn pairs_of_annotators(human: &HumanVerdict) -> Vec<(Verdict, Verdict)> {
    let mut pairs = Vec::new();
    for (index, one) in human.verdicts.iter().enumerate() {
        let others = human.verdicts.iter().skip(index + 1);
        pairs.extend(others.map(|other| (*one, *other)));
    }
    pairs
}

fn agreement(pairs: &[(Verdict, Verdict)]) -> f64 {
    let same = pairs.iter().filter(|(a, b)| a == b).count();
    same as f64 / pairs.len().max(1) as f64
}

/// Cohen's kappa (1960).
fn kappa(pairs: &[(Verdict, Verdict)]) -> f64 {
    let number = pairs.len().max(1) as f64;
    let mut counts: BTreeMap<Verdict, [f64; 2]> = BTreeMap::new();
    for (one, other) in pairs {
        counts.entry(*one).or_default()[0] += 1.0;
        counts.entry(*other).or_default()[1] += 1.0;
    }
    let chance: f64 = counts.values().map(|[a, b]| a * b / number / number).sum();
    if chance < 1.0 {
        (agreement(pairs) - chance) / (1.0 - chance)
    } else {
        1.0
    }
}

fn macro_f1(pairs: &[(Verdict, Verdict)]) -> f64 {
    let of = |wanted: Verdict| {
        let count = |of: &dyn Fn(&(Verdict, Verdict)) -> bool| {
            pairs.iter().filter(|pair| of(pair)).count() as f64
        };
        let hits = count(&|(a, b)| *a == wanted && *b == wanted);
        let named = count(&|(_, b)| *b == wanted);
        let there = count(&|(a, _)| *a == wanted);
        2.0 * hits / (named + there).max(1.0)
    };
    Verdict::CLEAR.into_iter().map(of).sum::<f64>() / 3.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{First, Second, Tie};

    #[test]
    fn figures_by_hand() {
        // Three classes, 10 pairs: 6 agree.
        let mut pairs = vec![(First, First); 3];
        pairs.extend([(Second, Second), (Second, Second), (Tie, Tie)]);
        pairs.extend([(First, Second), (First, Tie), (Second, First), (Tie, First)]);
        assert!((agreement(&pairs) - 0.6).abs() < 1e-12);
        // Left: 5, 3, 2 of first, second, tie; right: 5, 3, 2. Chance 0.25 + 0.09 + 0.04.
        assert!((kappa(&pairs) - (0.6 - 0.38) / 0.62).abs() < 1e-12);
        // F1: first 2·3/10, second 2·2/6, tie 2·1/4.
        let f1 = (0.6 + 2.0 / 3.0 + 0.5) / 3.0;
        assert!((macro_f1(&pairs) - f1).abs() < 1e-12);
    }

    fn human(verdicts: [Verdict; 3], first: &str) -> HumanVerdict {
        HumanVerdict {
            instruction: "Say.".to_owned(),
            input: String::new(),
            first: first.to_owned(),
            second: "b".to_owned(),
            verdicts: verdicts.to_vec(),
        }
    }

    #[test]
    fn the_test_set_is_read_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("testset.json");
        let row = r#"{"idx": 3, "instruction": "Negate.", "input": true, "response1": "false", "response2": 7,
            "annotator1": 0, "annotator2": 1, "annotator3": 2, "cmp_key": "a_b"}"#;
        std::fs::write(&path, format!("[{row}]")).unwrap();
        let found = &read_pandalm(&path).unwrap()[0];
        assert_eq!((found.input.as_str(), found.second.as_str()), ("true", "7"));
        assert_eq!(found.verdicts, [Tie, First, Second]);
        std::fs::write(
            &path,
            format!(
                "[{}]",
                row.replace("\"annotator1\": 0", "\"annotator1\": 3")
            ),
        )
        .unwrap();
        let error = read_pandalm(&path).unwrap_err().to_string();
        assert!(error.contains("verdict 3 in row 1"), "{error}");
    }

    #[test]
    fn the_majority_counts_or_none() {
        assert_eq!(human([First, First, Tie], "a").majority(), Some(First));
        assert_eq!(human([First, Second, Tie], "a").majority(), None);
        assert_eq!(human([Tie, Tie, Tie], "a").majority(), Some(Tie));
    }

    struct Longer;

    impl Judge for Longer {
        fn compare(&mut self, comparison: &Comparison) -> Result<crate::Judgement, EvalError> {
            let longer = comparison.first.len() > comparison.second.len();
            Ok(crate::Judgement {
                verdict: if longer { First } else { Second },
                reply: None,
            })
        }
    }

    #[test]
    fn a_judge_is_measured_on_pairs_with_a_majority() {
        let people = [
            human([First, First, Second], "aaa"),
            human([Second, Second, Second], "aaaa"),
            human([First, Second, Tie], "aa"),
            // With equal lengths, `Longer` contradicts itself: a tie.
            human([Tie, Tie, First], "a"),
        ];
        let folder = tempfile::tempdir().unwrap();
        let mut verdicts =
            VerdictFile::open(folder.path().join("verdicts.jsonl"), "longer").unwrap();
        let found = judge_quality(&people, &mut Longer, &mut verdicts, || ()).unwrap();
        assert_eq!((found.pairs, found.without_majority), (3, 1));
        assert!((found.accuracy.estimate - 2.0 / 3.0).abs() < 1e-12);
        assert!((found.consistent - 2.0 / 3.0).abs() < 1e-12);
        // Two that agree: one pair of annotators on the first and the last, three on the second.
        // The third agrees on the second; the judge is right on the first and the last.
        assert_eq!(found.human_leave_one_out.estimate, 3.0 / 5.0);
        assert_eq!(found.leave_one_out.estimate, 2.0 / 5.0);
        assert_eq!(found.unclear, 0);
    }
}
