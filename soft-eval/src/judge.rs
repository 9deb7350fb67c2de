//! Judges compare two responses to an instruction.
//!
//! Implementations: a model's likelihoods (`likelihood_judge`), a chat server (`chat_judge`),
//! people or other tools through a file (`verdict_file`).

use serde::{Deserialize, Serialize};

use crate::EvalError;

/// Two responses to one instruction, in the order shown to a judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Comparison<'a> {
    /// The instruction.
    pub instruction: &'a str,
    /// Input of the instruction; may be empty.
    pub input: &'a str,
    /// The response shown first.
    pub first: &'a str,
    /// The response shown second.
    pub second: &'a str,
}

impl Comparison<'_> {
    /// The comparison with the responses swapped.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self {
            first: self.second,
            second: self.first,
            ..self
        }
    }
}

/// The better response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Verdict {
    /// The first response.
    #[serde(rename = "1")]
    First,
    /// The second response.
    #[serde(rename = "2")]
    Second,
    /// Both are equally good.
    #[serde(rename = "tie")]
    Tie,
    /// The reply is not a verdict.
    #[serde(rename = "unclear")]
    Unclear,
}

impl Verdict {
    /// The verdicts other than [`Unclear`](Self::Unclear).
    pub const CLEAR: [Self; 3] = [Self::First, Self::Second, Self::Tie];

    /// The verdict with the responses swapped.
    #[must_use]
    pub fn reversed(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
            other => other,
        }
    }

    /// Parses a judge's reply. Its first line that has words must contain exactly one of `1`, `2`
    /// and `tie`.
    ///
    /// ```
    /// use soft_eval::Verdict;
    ///
    /// assert_eq!(Verdict::parse("2\n### Reason: it is shorter"), Verdict::Second);
    /// assert_eq!(Verdict::parse("**Response 1** is better."), Verdict::First);
    /// assert_eq!(Verdict::parse("Response 1 is better than 2"), Verdict::Unclear);
    /// ```
    pub fn parse(reply: &str) -> Self {
        let words = |line: &str| -> Vec<String> {
            let words = line.split(|c: char| !c.is_alphanumeric());
            let words = words.filter(|word| !word.is_empty());
            words.map(str::to_lowercase).collect()
        };
        let line = reply.lines().map(words).find(|words| !words.is_empty());
        let mut named: Vec<Self> = line
            .unwrap_or_default()
            .iter()
            .filter_map(|word| match word.as_str() {
                "1" => Some(Self::First),
                "2" => Some(Self::Second),
                "tie" => Some(Self::Tie),
                _ => None,
            })
            .collect();
        named.dedup();
        match named[..] {
            [verdict] => verdict,
            _ => Self::Unclear,
        }
    }
}

/// A verdict and the reply it was parsed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// The reply, for judges that reply in text.
    pub reply: Option<String>,
}

/// Judges pairs of responses.
pub trait Judge {
    /// Compares two responses.
    ///
    /// A reply that is not a verdict gives [`Verdict::Unclear`], not an error.
    ///
    /// # Errors
    /// If there is no reply.
    fn compare(&mut self, comparison: &Comparison) -> Result<Judgement, EvalError>;
}

impl<J: Judge + ?Sized> Judge for Box<J> {
    fn compare(&mut self, comparison: &Comparison) -> Result<Judgement, EvalError> {
        (**self).compare(comparison)
    }
}

/// The question to a judge that reads text. It ends where the answer begins: `1`, `2` or `tie`.
pub fn judge_prompt(comparison: &Comparison) -> String {
    let Comparison {
        instruction,
        input,
        first,
        second,
    } = comparison;
    let input = match input.trim() {
        "" => String::new(),
        input => format!("\n\nInput:\n{input}"),
    };
    format!(
        "Two responses to the same instruction are given. Which one follows the instruction better? Judge correctness, completeness and \
         clarity, not length. Answer with one word: 1, 2 or tie.\n\nInstruction:\n{instruction}{input}\n\nResponse 1:\n{}\n\nResponse 2:\n{}\n\nAnswer:",
        first.trim(),
        second.trim(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_or_not_at_all() {
        let cases = [
            ("1", Verdict::First),
            (" 2.", Verdict::Second),
            ("\n\n**Tie**\nboth are fine", Verdict::Tie),
            ("Response 1", Verdict::First),
            ("[[2]]", Verdict::Second),
            ("1, 1!", Verdict::First),
            ("1 or 2", Verdict::Unclear),
            ("12", Verdict::Unclear),
            ("neither", Verdict::Unclear),
            ("I think\n1", Verdict::Unclear),
            ("", Verdict::Unclear),
        ];
        for (reply, verdict) in cases {
            assert_eq!(Verdict::parse(reply), verdict, "{reply:?}");
        }
    }
}
