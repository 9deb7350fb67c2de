//! Pairwise comparison of two models, each pair of responses judged in both orders.
//!
//! The score is that of Sorted LLaMA's tables: (wins − losses) / instructions, from −1 to 1, where
//! each of the two orders counts half. A judge that always prefers the first response thus scores
//! 0.

use serde::{Deserialize, Serialize};

use crate::{Comparison, EvalError, Interval, Judge, Judgement, Verdict, VerdictFile};

/// An instruction with the responses of two models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The instruction.
    pub instruction: String,
    /// Input of the instruction; may be empty.
    pub input: String,
    /// The response of our model, whose score is computed.
    pub ours: String,
    /// The response of the other model.
    pub theirs: String,
}

impl Pair {
    /// The comparison that shows our response first.
    pub fn comparison(&self) -> Comparison<'_> {
        Comparison {
            instruction: &self.instruction,
            input: &self.input,
            first: &self.ours,
            second: &self.theirs,
        }
    }
}

/// The score of one model against another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairwiseScore {
    /// Number of instructions.
    pub pairs: u64,
    /// Verdicts for our model, of two per instruction.
    pub wins: u64,
    /// Verdicts for the other model.
    pub losses: u64,
    /// Ties, including those of equal responses.
    pub ties: u64,
    /// Replies that are not verdicts. They count as ties.
    pub unclear: u64,
    /// Share of instructions with the same verdict in both orders.
    pub consistent: f64,
    /// (wins − losses) / 2 / pairs.
    pub score: Interval,
}

/// Judges every pair in both orders. Verdicts in `verdicts` are reused, and new ones are recorded
/// there immediately. Equal responses tie without a judge. Without `judge`, missing verdicts are
/// listed in `verdicts` to be filled in. `progress` is called after each pair.
///
/// # Errors
/// No pairs; missing verdicts; a judge that gives no reply, after which a second call continues
/// with the remaining pairs; I/O errors.
pub fn judge_pairs(
    pairs: &[Pair],
    mut judge: Option<&mut dyn Judge>,
    verdicts: &mut VerdictFile,
    mut progress: impl FnMut(),
) -> Result<PairwiseScore, EvalError> {
    let mut judged = Vec::with_capacity(pairs.len());
    let mut missing = 0;
    for pair in pairs {
        let comparison = pair.comparison();
        let mut orders = [Verdict::Tie; 2];
        for (order, comparison) in [comparison, comparison.reversed()].into_iter().enumerate() {
            if comparison.first.trim() == comparison.second.trim() {
                continue;
            }
            let known = verdicts.get(&comparison);
            orders[order] = match (known, judge.as_deref_mut()) {
                (Some(verdict), _) => verdict,
                (None, Some(judge)) => {
                    let judgement: Judgement = judge.compare(&comparison)?;
                    verdicts.record(&comparison, &judgement)?;
                    judgement.verdict
                }
                (None, None) => {
                    verdicts.request(&comparison)?;
                    missing += 1;
                    Verdict::Unclear
                }
            };
        }
        judged.push([orders[0], orders[1].reversed()]);
        progress();
    }
    match missing {
        0 => PairwiseScore::of(&judged),
        missing => Err(verdicts.missing(missing)),
    }
}

impl PairwiseScore {
    /// The score from two verdicts per pair, in which `First` stands for our model.
    fn of(judged: &[[Verdict; 2]]) -> Result<Self, EvalError> {
        let count = |wanted: Verdict| {
            let verdicts = judged.iter().flatten();
            verdicts.filter(|verdict| **verdict == wanted).count() as u64
        };
        let value = |verdict: &Verdict| match verdict {
            Verdict::First => 0.5,
            Verdict::Second => -0.5,
            Verdict::Tie | Verdict::Unclear => 0.0,
        };
        let of_pair = |orders: &[Verdict; 2]| (orders.iter().map(value).sum(), 1.0);
        let pairs: Vec<(f64, f64)> = judged.iter().map(of_pair).collect();
        let score = Interval::of_differences(&pairs);
        let consistent = judged.iter().filter(|[one, other]| one == other).count();
        Ok(Self {
            pairs: judged.len() as u64,
            wins: count(Verdict::First),
            losses: count(Verdict::Second),
            ties: count(Verdict::Tie),
            unclear: count(Verdict::Unclear),
            consistent: consistent as f64 / judged.len().max(1) as f64,
            score: score.ok_or_else(|| EvalError::Setting {
                setting: "pairs",
                expected: "at least one",
                found: "none".to_owned(),
            })?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(ours: &str, theirs: &str) -> Pair {
        Pair {
            instruction: "Say something.".to_owned(),
            input: String::new(),
            ours: ours.to_owned(),
            theirs: theirs.to_owned(),
        }
    }

    /// Replies with a function of the two responses, and counts the calls.
    struct Says<F>(F, usize);

    impl<F: Fn(&str, &str) -> Result<&'static str, ()>> Judge for Says<F> {
        fn compare(&mut self, comparison: &Comparison) -> Result<Judgement, EvalError> {
            self.1 += 1;
            let reply = (self.0)(comparison.first, comparison.second);
            let reply = reply.map_err(|()| EvalError::Judge {
                reason: "gone".to_owned(),
            })?;
            Ok(Judgement {
                verdict: Verdict::parse(reply),
                reply: Some(reply.to_owned()),
            })
        }
    }

    fn scored(
        pairs: &[Pair],
        reply: impl Fn(&str, &str) -> Result<&'static str, ()>,
    ) -> PairwiseScore {
        let folder = tempfile::tempdir().unwrap();
        let mut verdicts = VerdictFile::open(folder.path().join("verdicts.jsonl"), "test").unwrap();
        let mut judge = Says(reply, 0);
        judge_pairs(pairs, Some(&mut judge), &mut verdicts, || ()).unwrap()
    }

    #[test]
    fn both_orders_are_averaged() {
        let longer = |first: &str, second: &str| match first.len().cmp(&second.len()) {
            std::cmp::Ordering::Greater => Ok("1"),
            std::cmp::Ordering::Less => Ok("2"),
            std::cmp::Ordering::Equal => Ok("tie"),
        };
        let pairs = [
            pair("aaa", "b"),
            pair("a", "bb"),
            pair("aaaa", "b"),
            pair("a", "b"),
        ];
        let score = scored(&pairs, longer);
        assert_eq!((score.wins, score.losses, score.ties), (4, 2, 2));
        assert_eq!(score.score.estimate, 0.25);
        assert_eq!(score.consistent, 1.0);
        // A judge that always prefers the first response.
        let score = scored(&pairs, |_, _| Ok("1"));
        assert_eq!((score.wins, score.losses), (4, 4));
        assert_eq!((score.score.estimate, score.consistent), (0.0, 0.0));
        // The first in one order and a tie in the other: half a win per pair.
        let first_or_tie =
            |first: &str, _: &str| Ok(if first.starts_with('a') { "1" } else { "tie" });
        assert_eq!(scored(&pairs, first_or_tie).score.estimate, 0.5);
    }

    #[test]
    fn equal_responses_tie_unasked_and_unclear_replies_are_counted() {
        let score = scored(&[pair("a", " a\n"), pair("a", "b")], |_, _| Ok("well"));
        assert_eq!((score.ties, score.unclear, score.pairs), (2, 2, 2));
        assert_eq!(score.score.estimate, 0.0);
    }

    #[test]
    fn a_judge_that_dies_half_way_costs_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("verdicts.jsonl");
        let pairs: Vec<_> = (0..5)
            .map(|i| pair(&format!("ours {i}"), &format!("theirs {i}")))
            .collect();
        let mut dying = Says(
            |first: &str, _: &str| {
                if first.contains('3') {
                    Err(())
                } else {
                    Ok("1")
                }
            },
            0,
        );
        let mut verdicts = VerdictFile::open(&path, "test").unwrap();
        let result = judge_pairs(&pairs, Some(&mut dying), &mut verdicts, || ());
        assert!(matches!(result, Err(EvalError::Judge { .. })));
        assert_eq!(dying.1, 7);
        drop(verdicts);
        let mut verdicts = VerdictFile::open(&path, "test").unwrap();
        let mut healthy = Says(|_: &str, _: &str| Ok("1"), 0);
        let score = judge_pairs(&pairs, Some(&mut healthy), &mut verdicts, || ()).unwrap();
        assert_eq!(healthy.1, 4);
        assert_eq!((score.wins, score.losses), (5, 5));
    }

    #[test]
    fn without_a_judge_open_comparisons_are_listed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("verdicts.jsonl");
        let mut verdicts = VerdictFile::open(&path, "test").unwrap();
        let error = judge_pairs(&[pair("a", "b")], None, &mut verdicts, || ()).unwrap_err();
        assert!(matches!(
            error,
            EvalError::MissingVerdicts { missing: 2, .. }
        ));
        drop(verdicts);
        let filled = std::fs::read_to_string(&path).unwrap();
        assert_eq!(filled.matches("null").count(), 2);
        std::fs::write(&path, filled.replace("null", "\"2\"")).unwrap();
        let mut verdicts = VerdictFile::open(&path, "test").unwrap();
        let score = judge_pairs(&[pair("a", "b")], None, &mut verdicts, || ()).unwrap();
        assert_eq!((score.wins, score.losses), (1, 1));
    }
}
