//! Loss, perplexity and accuracy of every exit.
//!
//! One pass through the model scores all exits. Means are over supervised tokens. The end of a
//! response is the easiest token of all where responses are short, so that the accuracy is also
//! given without it.

use serde::{Deserialize, Serialize};
use soft_core::model::ScoreSum;
use soft_core::{Batch, BatchModel, Exit, Exits};

/// The scores of one exit on the supervised tokens of a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitScores {
    /// Depth of the sub-model.
    pub exit: Exit,
    /// Mean cross-entropy in nats per token.
    pub loss: f64,
    /// exp(loss).
    pub perplexity: f64,
    /// Share of tokens that have the highest logit, with teacher forcing.
    pub accuracy: f64,
    /// The same without stop tokens; `None` where nothing is left, or stop tokens are not told
    /// apart.
    #[serde(default)]
    pub accuracy_without_ends: Option<f64>,
    /// Number of tokens.
    pub tokens: u64,
}

/// Scores every exit of `model` on `batches`, in which `ends` are the stop tokens; `progress` is
/// called after each batch.
///
/// # Errors
/// Errors of the model.
pub fn exit_scores<M: BatchModel>(
    model: &M,
    exits: &Exits,
    (batches, ends): (&[Batch], &[u32]),
    progress: impl FnMut(),
) -> Result<Vec<ExitScores>, M::Error> {
    let rows = row_scores(model, exits, (batches, ends), progress)?;
    let exits = exits.iter().zip(&rows);
    Ok(exits
        .map(|(exit, rows)| ExitScores::of(exit, rows))
        .collect())
}

/// Sums of scores, `[exit][row]`, as needed for confidence intervals; `ends` are the stop tokens.
///
/// # Errors
/// Errors of the model.
pub fn row_scores<M: BatchModel>(
    model: &M,
    exits: &Exits,
    (batches, ends): (&[Batch], &[u32]),
    mut progress: impl FnMut(),
) -> Result<Vec<Vec<ScoreSum>>, M::Error> {
    let mut rows: Vec<Vec<ScoreSum>> = vec![Vec::new(); exits.len()];
    for batch in batches {
        for (rows, scores) in rows.iter_mut().zip(model.batch_scores(batch, exits)?) {
            let mut sums = vec![ScoreSum::default(); batch.rows()];
            for (target, score) in batch.targets().iter().zip(scores) {
                if ends.contains(&target.token) {
                    sums[target.row].add_end(score);
                } else {
                    sums[target.row].add(score);
                }
            }
            rows.extend(sums);
        }
        progress();
    }
    Ok(rows)
}

impl ExitScores {
    /// Means over the tokens of these rows.
    pub fn of(exit: Exit, rows: &[ScoreSum]) -> Self {
        let tokens: u64 = rows.iter().map(|row| row.targets).sum();
        let nats: f64 = rows.iter().map(|row| row.nats).sum();
        let correct: u64 = rows.iter().map(|row| row.correct).sum();
        let loss = nats / tokens as f64;
        Self {
            exit,
            loss,
            perplexity: loss.exp(),
            accuracy: correct as f64 / tokens as f64,
            accuracy_without_ends: accuracy_without_ends(rows),
            tokens,
        }
    }
}

/// The accuracy without stop tokens.
pub(crate) fn accuracy_without_ends(rows: &[ScoreSum]) -> Option<f64> {
    let sum = |of: fn(&ScoreSum) -> u64| rows.iter().map(of).sum::<u64>();
    let tokens = sum(|row| row.targets - row.ends);
    let told_apart = sum(|row| row.ends) > 0 && tokens > 0;
    told_apart.then(|| sum(|row| row.correct - row.correct_ends) as f64 / tokens as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use soft_core::toy::ToyModel;
    use soft_core::{Example, sorted_loss};

    fn batch(rows: &[Vec<u32>]) -> Batch {
        let examples: Vec<_> = rows.iter().cloned().map(Example::text).collect();
        Batch::from_examples(&examples.iter().collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn means_are_over_tokens_not_over_batches() {
        let model = ToyModel::new(3, 4, 8, 9);
        let exits = Exits::new([1, 3]).unwrap();
        let rows = [vec![1, 2, 3, 4, 5, 6], vec![7, 1]];
        let together = exit_scores(&model, &exits, (&[batch(&rows)], &[1]), || ()).unwrap();
        let apart = [batch(&rows[..1]), batch(&rows[1..])];
        let apart = exit_scores(&model, &exits, (&apart, &[]), || ()).unwrap();
        for (a, b) in together.iter().zip(&apart) {
            assert!((a.loss - b.loss).abs() < 1e-12);
            assert_eq!((a.accuracy, a.tokens), (b.accuracy, 6));
            assert!((a.perplexity.ln() - a.loss).abs() < 1e-12);
            // Without the one end among the six targets.
            let [correct, without] = [6.0 * a.accuracy, 5.0 * a.accuracy_without_ends.unwrap()];
            assert!((correct - without).abs() < 1e-9 || (correct - without - 1.0).abs() < 1e-9);
            assert_eq!(b.accuracy_without_ends, None);
        }
    }

    #[test]
    fn the_loss_is_that_of_training() {
        let model = ToyModel::new(3, 4, 8, 9);
        let (exits, rows) = (Exits::new([2, 3]).unwrap(), [vec![1, 2, 3], vec![4, 5, 6]]);
        let scores = exit_scores(&model, &exits, (&[batch(&rows)], &[]), || ()).unwrap();
        let batch = batch(&rows);
        let (tokens, targets) = model.prepare(&batch).unwrap();
        let output = sorted_loss(&model, (&tokens, &targets), &exits, &[0.5, 0.5], 4.0).unwrap();
        assert!((output.total - (scores[0].loss + scores[1].loss) / 2.0).abs() < 1e-12);
    }
}
