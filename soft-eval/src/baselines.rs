//! Baselines that never read the prompt: what an exit must beat before it can be said to answer.
//!
//! A unigram and a bigram over answer tokens, fitted on the answers of training rows. The token
//! before the first of an answer is a mark, the same for all. Probabilities are interpolated with
//! those of the shorter context and a uniform distribution (Jelinek & Mercer 1980); the shares are
//! chosen on every tenth training row, with the others counted, and then all rows are counted.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use soft_core::Batch;
use soft_core::model::{ScoreSum, TargetScore};

use crate::exit_scores::accuracy_without_ends;
use crate::{Bootstrap, EvalError, Interval};

/// A baseline that never reads the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Baseline {
    /// The frequency of tokens. Its best guess is always the most frequent one.
    Unigram,
    /// The frequency of tokens after the answer's token before.
    Bigram,
}

impl Baseline {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Unigram, Self::Bigram];

    /// "unigram" or "bigram".
    pub fn name(self) -> &'static str {
        match self {
            Self::Unigram => "unigram",
            Self::Bigram => "bigram",
        }
    }
}

/// Both baselines, fitted on training rows.
#[derive(Clone, Debug)]
pub struct Baselines {
    counts: Counts,
    /// Shares of bigram and unigram in the bigram's probability; the rest is uniform.
    of_bigram: (f64, f64),
    /// Share of the unigram in the unigram's probability; the rest is uniform.
    of_unigram: f64,
}

/// The scores of a baseline on the supervised tokens of a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaselineScores {
    /// Which one.
    pub baseline: Baseline,
    /// Mean cross-entropy in nats per token, with its interval.
    pub loss: Interval,
    /// Share of tokens that are the most probable.
    pub accuracy: f64,
    /// The same without stop tokens, where they are told apart.
    #[serde(default)]
    pub accuracy_without_ends: Option<f64>,
    /// Number of tokens.
    pub tokens: u64,
}

/// A token and the answer's token before; `None` before the first.
type Pair = (Option<u32>, u32);

/// Candidates for the shares: multiples of 1/20.
fn shares() -> impl Iterator<Item = f64> + Clone {
    (1..20).map(|share| f64::from(share) / 20.0)
}

impl Baselines {
    /// Counts the supervised tokens of `training`, of which every id is below `vocab`.
    ///
    /// # Errors
    /// When fewer than ten rows have a supervised token.
    pub fn fit(training: &[Batch], vocab: usize) -> Result<Self, EvalError> {
        let rows: Vec<_> = training.iter().flat_map(answers).collect();
        let rows: Vec<_> = rows.into_iter().filter(|row| !row.is_empty()).collect();
        if rows.len() < 10 {
            return Err(EvalError::Setting {
                setting: "training rows of the baselines",
                expected: "at least 10 with a supervised token",
                found: rows.len().to_string(),
            });
        }
        let tenth = |held_out: bool| {
            let rows = rows.iter().enumerate();
            let chosen = rows.filter(move |(index, _)| (index % 10 == 0) == held_out);
            chosen.flat_map(|(_, row)| row).copied()
        };
        let part = Counts::of(tenth(false), vocab);
        let held_out: Vec<Pair> = tenth(true).collect();
        let loss = |probability: &dyn Fn(Pair) -> f64| -> f64 {
            held_out.iter().map(|&pair| -probability(pair).ln()).sum()
        };
        let of_unigram = least(shares().map(|share| {
            let probability = |(_, token)| part.unigram(token, share);
            (loss(&probability), share)
        }));
        let pairs = shares().flat_map(|a| shares().map(move |b| (a, b)));
        let pairs = pairs.filter(|(a, b)| a + b < 1.0 - 1e-9);
        let of_bigram = least(pairs.map(|shares| {
            let probability = |pair| part.bigram(pair, shares);
            (loss(&probability), shares)
        }));
        Ok(Self {
            counts: Counts::of(rows.iter().flatten().copied(), vocab),
            of_bigram,
            of_unigram,
        })
    }

    /// Sums of scores of every row; `ends` are the stop tokens.
    pub fn row_scores(
        &self,
        baseline: Baseline,
        (batches, ends): (&[Batch], &[u32]),
    ) -> Vec<ScoreSum> {
        let score = |pair: Pair| {
            let (probability, guess) = match baseline {
                Baseline::Unigram => (
                    self.counts.unigram(pair.1, self.of_unigram),
                    self.counts.singles.best,
                ),
                Baseline::Bigram => (
                    self.counts.bigram(pair, self.of_bigram),
                    self.counts.bigram_guess(pair.0, self.of_bigram),
                ),
            };
            TargetScore {
                nats: -probability.ln(),
                correct: guess == pair.1,
            }
        };
        let of_row = |row: Vec<Pair>| {
            let mut sum = ScoreSum::default();
            for pair in row {
                if ends.contains(&pair.1) {
                    sum.add_end(score(pair));
                } else {
                    sum.add(score(pair));
                }
            }
            sum
        };
        batches.iter().flat_map(answers).map(of_row).collect()
    }

    /// The scores of both baselines; none without supervised tokens. `ends` are the stop tokens.
    pub fn scores(&self, batches: &[Batch], ends: &[u32]) -> Vec<BaselineScores> {
        let scores = Baseline::ALL.into_iter().filter_map(|baseline| {
            let rows = self.row_scores(baseline, (batches, ends));
            let parts = rows.iter().map(|row| (row.nats, row.targets as f64));
            let correct: u64 = rows.iter().map(|row| row.correct).sum();
            let tokens: u64 = rows.iter().map(|row| row.targets).sum();
            Some(BaselineScores {
                baseline,
                loss: Bootstrap::default().ratio(&parts.collect::<Vec<_>>())?,
                accuracy: correct as f64 / tokens as f64,
                accuracy_without_ends: accuracy_without_ends(&rows),
                tokens,
            })
        });
        scores.collect()
    }
}

fn least<T>(losses: impl IntoIterator<Item = (f64, T)>) -> T
where
    T: Default,
{
    let least = losses.into_iter().min_by(|a, b| a.0.total_cmp(&b.0));
    least.map(|(_, value)| value).unwrap_or_default()
}

/// The supervised tokens of every row.
fn answers(batch: &Batch) -> Vec<Vec<Pair>> {
    let mut rows = vec![Vec::new(); batch.rows()];
    let targets = batch.targets();
    for (index, target) in targets.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| targets[before]);
        let before = before.filter(|it| (it.row, it.position + 1) == (target.row, target.position));
        rows[target.row].push((before.map(|before| before.token), target.token));
    }
    rows
}

#[derive(Clone, Debug)]
struct Counts {
    vocab: usize,
    singles: Successors,
    pairs: HashMap<Option<u32>, Successors>,
}

/// How often tokens followed.
#[derive(Clone, Debug, Default)]
struct Successors {
    counts: HashMap<u32, u64>,
    total: u64,
    /// The most frequent token, of equal ones the first that was.
    best: u32,
}

impl Successors {
    fn add(&mut self, token: u32) {
        self.total += 1;
        let count = self.counts.entry(token).or_default();
        *count += 1;
        let count = *count;
        if count > self.counts.get(&self.best).copied().unwrap_or(0) {
            self.best = token;
        }
    }

    fn share(&self, token: u32) -> f64 {
        self.counts.get(&token).copied().unwrap_or(0) as f64 / self.total as f64
    }
}

impl Counts {
    fn of(pairs: impl IntoIterator<Item = Pair>, vocab: usize) -> Self {
        let mut counts = Self {
            vocab,
            singles: Successors::default(),
            pairs: HashMap::new(),
        };
        for (before, token) in pairs {
            counts.singles.add(token);
            counts.pairs.entry(before).or_default().add(token);
        }
        counts
    }

    /// What followed this token, or all tokens if it was not seen.
    fn after(&self, before: Option<u32>) -> &Successors {
        self.pairs.get(&before).unwrap_or(&self.singles)
    }

    fn unigram(&self, token: u32, share: f64) -> f64 {
        share * self.singles.share(token) + (1.0 - share) / self.vocab as f64
    }

    fn bigram(&self, (before, token): Pair, (pair, single): (f64, f64)) -> f64 {
        pair * self.after(before).share(token)
            + single * self.singles.share(token)
            + (1.0 - pair - single) / self.vocab as f64
    }

    /// The token of highest probability after this one, of equal ones the lowest: a successor, or
    /// the most frequent token.
    fn bigram_guess(&self, before: Option<u32>, shares: (f64, f64)) -> u32 {
        let successors = self.after(before).counts.keys().copied();
        let candidates = successors.chain([self.singles.best]);
        let with_probability =
            candidates.map(|token| (self.bigram((before, token), shares), token));
        let best =
            with_probability.max_by(|(p, token), (q, other)| p.total_cmp(q).then(other.cmp(token)));
        best.map_or(self.singles.best, |(_, token)| token)
    }
}

#[cfg(test)]
mod tests {
    use soft_core::Example;

    use super::*;

    /// Rows of a prompt of two tokens and an answer.
    fn batch(answers: &[&[u32]]) -> Batch {
        let rows: Vec<_> = answers
            .iter()
            .map(|answer| {
                let tokens = [&[7, 8], *answer].concat();
                let marks = (0..tokens.len()).map(|index| index >= 2).collect();
                Example::new(tokens, marks).unwrap()
            })
            .collect();
        Batch::from_examples(&rows.iter().collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn counts_by_hand() {
        // 1 → 2 → 0 in all rows but two, which go 3 → 0.
        let rows: Vec<&[u32]> = (0..20)
            .map(|row| {
                if row % 10 == 5 {
                    &[3, 0][..]
                } else {
                    &[1, 2, 0]
                }
            })
            .collect();
        let found = Baselines::fit(&[batch(&rows)], 10).unwrap();
        assert_eq!(found.counts.singles.total, 58);
        let scored = batch(&[&[1, 2, 0], &[3, 0]]);
        let correct = |baseline| -> Vec<u64> {
            let rows = found.row_scores(baseline, (std::slice::from_ref(&scored), &[]));
            rows.iter().map(|row| row.correct).collect()
        };
        // The most frequent token is 0; the most frequent first one is 1.
        assert_eq!(correct(Baseline::Unigram), [1, 1]);
        assert_eq!(correct(Baseline::Bigram), [3, 1]);
        // 3 as the first token: 2 of 20 rows, 2 of 58 tokens, 1 of 10 ids.
        let (pair, single) = found.of_bigram;
        let expected = pair * 0.1 + single * 2.0 / 58.0 + (1.0 - pair - single) * 0.1;
        let after_three = found.counts.bigram((Some(3), 0), found.of_bigram);
        let rows = found.row_scores(Baseline::Bigram, (std::slice::from_ref(&scored), &[]));
        let nats = -(expected.ln() + after_three.ln());
        assert!((rows[1].nats - nats).abs() < 1e-12);
        // Held out, a row is foreseen best by the pair.
        assert!(pair >= 0.8, "{pair}");
        // Probabilities sum to 1, after a token that was seen and one that was not.
        for before in [None, Some(1), Some(9)] {
            let sum: f64 = (0..10)
                .map(|token| found.counts.bigram((before, token), found.of_bigram))
                .sum();
            assert!((sum - 1.0).abs() < 1e-12, "{before:?}: {sum}");
        }
        for before in [None, Some(1), Some(2), Some(9)] {
            let probability = |token: u32| found.counts.bigram((before, token), found.of_bigram);
            let guess = found.counts.bigram_guess(before, found.of_bigram);
            assert!((0..10).all(|token| probability(token) <= probability(guess)));
        }
        let scores = found.scores(&[scored], &[0]);
        assert_eq!(scores.len(), 2);
        assert_eq!((scores[1].accuracy, scores[1].tokens), (0.8, 5));
        // Of the tokens that are not 0, the bigram names 1 and 2, the unigram none.
        assert_eq!(scores[1].accuracy_without_ends, Some(2.0 / 3.0));
        assert_eq!(scores[0].accuracy_without_ends, Some(0.0));
    }

    #[test]
    fn too_few_rows_are_refused() {
        let rows = batch(&[&[1][..]; 9]);
        let error = Baselines::fit(&[rows], 10).unwrap_err();
        assert!(error.to_string().contains("at least 10"), "{error}");
    }

    /// The most frequent token of all is likelier than each of many rare successors.
    #[test]
    fn the_bigrams_guess_is_its_most_probable_token() {
        let rare = (1..=20).map(|token| (Some(0), token));
        let frequent = std::iter::repeat_n((Some(1), 30), 20);
        let counts = Counts::of(rare.chain(frequent), 40);
        assert_eq!(counts.bigram_guess(Some(0), (0.35, 0.6)), 30);
        assert_eq!(counts.bigram_guess(Some(0), (0.95, 0.01)), 1);
    }
}
