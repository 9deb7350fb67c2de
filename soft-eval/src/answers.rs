//! Exact match and F1 of short answers, as for TriviaQA.
//!
//! Source: Joshi et al., *TriviaQA*, ACL 2017, and its official evaluation script. The SoFT paper
//! reports exact match without normalization ([`exact_match`]); most other work normalizes
//! ([`exact_match_normalized`]).

use std::collections::HashMap;

/// Whether `prediction` equals one of `answers`, apart from leading and trailing white space.
///
/// Nothing is normalized: `paris` and `Paris.` are not `Paris`.
pub fn exact_match<A: AsRef<str>>(prediction: &str, answers: impl IntoIterator<Item = A>) -> bool {
    let prediction = prediction.trim_matches(is_space);
    answers
        .into_iter()
        .any(|answer| answer.as_ref().trim_matches(is_space) == prediction)
}

/// Whether `prediction` equals one of `answers` after [`normalize`].
///
/// ```
/// use soft_eval::{exact_match, exact_match_normalized};
///
/// assert!(!exact_match("the eiffel tower.", ["Eiffel Tower"]));
/// assert!(exact_match_normalized("the eiffel tower.", ["Eiffel Tower"]));
/// ```
pub fn exact_match_normalized<A: AsRef<str>>(
    prediction: &str,
    answers: impl IntoIterator<Item = A>,
) -> bool {
    let prediction = normalize(prediction);
    answers
        .into_iter()
        .any(|answer| normalize(answer.as_ref()) == prediction)
}

/// The best F1 of `prediction` against any of `answers`, from 0 to 1; 0 without answers.
///
/// Normalized texts are compared as bags of words: with `c` words in common, precision P is `c`
/// over the words of the prediction, recall R is `c` over those of the answer, and F1 = 2PR / (P +
/// R). F1 is 0 without a common word, even if both texts are empty.
pub fn f1<A: AsRef<str>>(prediction: &str, answers: impl IntoIterator<Item = A>) -> f64 {
    let prediction = normalize(prediction);
    let of = |answer: A| word_f1(&prediction, &normalize(answer.as_ref()));
    answers.into_iter().map(of).fold(0.0, f64::max)
}

/// The scores of one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AnswerScore {
    /// Whether it is an accepted answer without normalization, as in the paper.
    pub exact: bool,
    /// Whether it is one after TriviaQA's normalization.
    pub normalized: bool,
    /// The best F1 against any accepted answer.
    pub f1: f64,
}

impl AnswerScore {
    /// Scores `prediction` against the accepted answers.
    pub fn of<A: AsRef<str>>(prediction: &str, accepted: &[A]) -> Self {
        Self {
            exact: exact_match(prediction, accepted),
            normalized: exact_match_normalized(prediction, accepted),
            f1: f1(prediction, accepted),
        }
    }
}

/// Normalizes a text as TriviaQA does.
///
/// In this order: `_` becomes a space; lower case; ASCII punctuation and the quotes
/// ``‘’´` `` become spaces; the words `a`, `an`, `the` are removed; runs of white space become one
/// space, and are removed at both ends.
///
/// ```
/// assert_eq!(soft_eval::normalize("The  Rock-'n'-Roll_Years!"), "rock n roll years");
/// ```
pub fn normalize(text: &str) -> String {
    let lower = text.replace('_', " ").to_lowercase();
    let spaced: String = lower
        .chars()
        .map(|c| if is_mark(c) { ' ' } else { c })
        .collect();
    let bare = without_articles(&spaced);
    let words: Vec<_> = bare
        .split(is_space)
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ")
}

fn is_mark(c: char) -> bool {
    c.is_ascii_punctuation() || matches!(c, '‘' | '’' | '´')
}

/// White space of Python, as in the official script, which includes the ASCII separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Removes articles that are whole words. Words end where letters and digits end, not only at
/// spaces ("a–z" loses its first word).
fn without_articles(text: &str) -> String {
    let mut bare = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let in_word = first.is_alphanumeric();
        let end = rest
            .find(|c: char| c.is_alphanumeric() != in_word)
            .unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        bare.push_str(if matches!(run, "a" | "an" | "the") {
            " "
        } else {
            run
        });
        rest = after;
    }
    bare
}

fn word_f1(prediction: &str, answer: &str) -> f64 {
    let mut wanted: HashMap<&str, usize> = HashMap::new();
    for word in answer.split_whitespace() {
        *wanted.entry(word).or_default() += 1;
    }
    let mut common = 0_usize;
    for word in prediction.split_whitespace() {
        if let Some(left) = wanted.get_mut(word).filter(|left| **left > 0) {
            *left -= 1;
            common += 1;
        }
    }
    if common == 0 {
        return 0.0;
    }
    let precision = common as f64 / prediction.split_whitespace().count() as f64;
    let recall = common as f64 / answer.split_whitespace().count() as f64;
    2.0 * precision * recall / (precision + recall)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalization_follows_the_official_rules() {
        let cases = [
            ("The Beatles", "beatles"),
            ("  A Tale\tof an  Age ", "tale of age"),
            ("Theatre", "theatre"),
            ("rock_and_roll", "rock and roll"),
            ("AT&T", "at t"),
            ("U.S.A.", "u s"),
            ("O’Brien‘s `x´", "o brien s x"),
            ("a–z", "–z"),
            ("Düsseldorf", "düsseldorf"),
            ("1,000", "1 000"),
            ("The The", ""),
            ("", ""),
        ];
        for (text, normal) in cases {
            assert_eq!(normalize(text), normal, "{text}");
        }
    }

    #[test]
    fn exact_match_is_to_the_letter_after_trimming() {
        let answers = ["Paris", "City of Light "];
        assert!(exact_match(" Paris\n", answers));
        assert!(exact_match("City of Light", answers.map(String::from)));
        assert!(!exact_match("paris", answers));
        assert!(!exact_match("Paris.", answers));
        assert!(!exact_match("the City of Light", answers));
        assert!(!exact_match("Paris", [""; 0]));
    }

    #[test]
    fn normalized_match_takes_any_alias() {
        let answers = vec!["Sunset Boulevard".to_owned(), "Sunset Blvd.".to_owned()];
        assert!(exact_match_normalized("the sunset  blvd", &answers));
        assert!(!exact_match_normalized("sunset", &answers));
    }

    #[test]
    fn f1_by_hand() {
        // "big red dog" and "red dog house barks": 2 common, P = 2/3, R = 2/4, F1 = 4/7.
        let score = f1("The big red dog", ["a red dog house barks"]);
        assert!((score - 4.0 / 7.0).abs() < 1e-12, "{score}");
        // A repeated word counts as often as it occurs in both: c = 1, P = 1/3, R = 1, F1 = 1/2.
        let score = f1("ha ha ha", ["ha"]);
        assert!((score - 0.5).abs() < 1e-12, "{score}");
        assert_eq!(
            f1("David Seville", ["Ross Bagdasarian", "david seville!"]),
            1.0
        );
        assert_eq!(f1("x", ["y"]), 0.0);
        assert_eq!(f1("", ["The"]), 0.0);
        assert_eq!(f1("x", [""; 0]), 0.0);
    }
}
