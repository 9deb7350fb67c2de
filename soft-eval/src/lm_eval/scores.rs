//! The metrics of lm-eval: accuracy of choices by likelihood, exact match of answers.

/// The likelihoods of the choices of a question, and whether the most likely one is right.
#[derive(Clone, Debug, PartialEq)]
pub struct ChoiceScores {
    /// Log-likelihood of each choice, in nats.
    pub log_likelihoods: Vec<f64>,
    /// For each choice, whether all its tokens are the most likely ones.
    pub greedy: Vec<bool>,
    /// Whether the choice with the highest likelihood is right (`acc`).
    pub accurate: bool,
    /// The same for the likelihood per character (`acc_norm`).
    pub accurate_by_length: bool,
}

/// Scores `choices` by their log-likelihoods; the first of equally likely ones counts.
pub fn choice_scores(
    choices: &[String],
    right: usize,
    log_likelihoods: Vec<f64>,
    greedy: Vec<bool>,
) -> ChoiceScores {
    let lengths = choices.iter().map(|choice| choice.chars().count() as f64);
    let by_length = log_likelihoods.iter().zip(lengths);
    let by_length: Vec<f64> = by_length.map(|(nats, length)| nats / length).collect();
    ChoiceScores {
        accurate: highest(&log_likelihoods) == right,
        accurate_by_length: highest(&by_length) == right,
        log_likelihoods,
        greedy,
    }
}

/// Index of the highest number, the first of equal ones.
fn highest(numbers: &[f64]) -> usize {
    let higher = |best: usize, next: usize| {
        if numbers[next] > numbers[best] {
            next
        } else {
            best
        }
    };
    (0..numbers.len()).reduce(higher).unwrap_or(0)
}

/// Whether an answer is one of the accepted ones, in lower case and without ASCII punctuation.
pub fn matches_any(answer: &str, accepted: &[String]) -> bool {
    let answer = folded(answer.trim());
    accepted.iter().any(|accepted| folded(accepted) == answer)
}

fn folded(text: &str) -> String {
    let lower = text.to_lowercase();
    lower
        .chars()
        .filter(|c| !c.is_ascii_punctuation())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_may_decide() {
        let choices = ["ab", "abcdefgh"].map(str::to_owned);
        let scores = choice_scores(&choices, 1, vec![-2.0, -3.0], vec![false; 2]);
        assert!(!scores.accurate && scores.accurate_by_length);
        let equal = choice_scores(&choices, 0, vec![-2.0, -2.0], vec![false; 2]);
        assert!(equal.accurate);
    }

    #[test]
    fn answers_match_without_case_and_punctuation() {
        let accepted = ["St. Peter's".to_owned(), "Rome".to_owned()];
        assert!(matches_any(" st peters ", &accepted));
        assert!(matches_any("ROME", &accepted));
        assert!(!matches_any("the Rome", &accepted));
    }
}
