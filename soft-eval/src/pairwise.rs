//! Two models compared instruction by instruction, each pair judged in both orders.
//!
//! The score is that of Sorted LLaMA's tables: (wins − losses) / instructions, where each of the
//! two orders counts half; it runs from −1 to 1. A judge that prefers whatever comes first thus
//! gives every pair a tie. Knows judges and texts, no models.

use serde::{Deserialize, Serialize};

use crate::{Bootstrap, Comparison, EvalError, Interval, Judge, Judgement, Verdict, VerdictFile};

/// An instruction with the responses of two models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// What was asked.
    pub instruction: String,
    /// Material that the instruction is about; may be empty.
    pub input: String,
    /// The response of the model whose score it is.
    pub ours: String,
    /// The response of the other.
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

/// How one model did against another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairwiseScore {
    /// Instructions.
    pub pairs: u64,
    /// Judgements for us, of two per instruction.
    pub wins: u64,
    /// Judgements for the other.
    pub losses: u64,
    /// Judgements for neither, those of equal responses included.
    pub ties: u64,
    /// Replies that were no verdict; they count as ties.
    pub unclear: u64,
    /// Share of instructions on which the judge named the same response in both orders, or none in
    /// both.
    pub consistent: f64,
    /// (wins − losses) / 2 / pairs.
    pub score: Interval,
}

/// Judges every pair in both orders. Verdicts that `verdicts` holds are not asked for again; new
/// ones go there at once. Equal responses tie without being asked about. Without a judge, what is
/// missing is listed in `verdicts` for somebody to fill in. `progress` is called after each pair.
///
/// # Errors
/// No pairs; when the judge gives no reply, after which a second call continues with what is left;
/// missing verdicts; I/O errors.
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
    /// From the two verdicts on each pair, `First` standing for us in both.
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
        let values: Vec<f64> = judged
            .iter()
            .map(|orders| orders.iter().map(value).sum())
            .collect();
        let score = Bootstrap::default().mean(&values);
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

    /// Says what a function of the two responses says, and counts.
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
        // One who always prefers the first says nothing of the responses.
        let score = scored(&pairs, |_, _| Ok("1"));
        assert_eq!((score.wins, score.losses), (4, 4));
        assert_eq!((score.score.estimate, score.consistent), (0.0, 0.0));
        // First, or a tie: half a win each.
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
