//! Laws of the loss: a mean over the exits, a sum over the rows.

use super::laws::Laws;
use super::{LawBroken, Observed, failed};
use crate::batch::{Batch, Example, Target};
use crate::exit::Exits;
use crate::loss::sorted::sorted_loss;

impl<M: Observed> Laws<'_, M> {
    /// The sorted loss is the mean of the losses of the sub-models' logits (equation 1).
    pub(super) fn sorted_loss_is_the_mean(&self) -> Result<(), LawBroken> {
        const LAW: &str = "sorted loss = mean of the sub-models' losses";
        let batch = self.batch(LAW, &self.rows)?;
        let weights = vec![1.0 / self.exits.len() as f64; self.exits.len()];
        let sorted = self.total_loss(LAW, &batch, &self.exits, &weights)?;
        let mut mean = 0.0;
        for exit in self.exits.iter() {
            let logits = self.sub_model(LAW, &self.rows, exit)?;
            mean += mean_cross_entropy(&logits, batch.targets()) / self.exits.len() as f64;
        }
        self.close(LAW, "loss".into(), mean, sorted)
    }

    /// The loss of a padded batch is the sum of its rows' losses.
    pub(super) fn padding_changes_nothing(&self) -> Result<(), LawBroken> {
        const LAW: &str = "loss of a padded batch = sum over its rows";
        let seq = self.rows[0].len();
        let ragged: Vec<_> = self
            .rows
            .iter()
            .enumerate()
            .map(|(row, tokens)| tokens[..seq - row % (seq - 2)].to_vec())
            .collect();
        let only_last = Exits::new([self.exits.last().depth()]).map_err(failed(LAW))?;
        let loss = |rows: &[Vec<u32>]| {
            let batch = self.batch(LAW, rows)?;
            let mean = self.total_loss(LAW, &batch, &only_last, &[1.0])?;
            Ok(mean * batch.supervised_tokens() as f64)
        };
        let mut alone = 0.0;
        for row in &ragged {
            alone += loss(std::slice::from_ref(row))?;
        }
        self.close(LAW, "loss".into(), alone, loss(&ragged)?)
    }

    fn batch(&self, law: &'static str, rows: &[Vec<u32>]) -> Result<Batch, LawBroken> {
        let examples: Vec<_> = rows.iter().cloned().map(Example::text).collect();
        Batch::from_examples(&examples.iter().collect::<Vec<_>>()).map_err(failed(law))
    }

    fn total_loss(
        &self,
        law: &'static str,
        batch: &Batch,
        exits: &Exits,
        weights: &[f64],
    ) -> Result<f64, LawBroken> {
        let (tokens, targets) = self.model.prepare(batch).map_err(failed(law))?;
        let normalizer = batch.supervised_tokens() as f64;
        let output = sorted_loss(self.model, (&tokens, &targets), exits, weights, normalizer);
        let total = output.map_err(failed(law))?.total;
        self.model.loss_value(&total).map_err(failed(law))
    }
}

fn mean_cross_entropy(logits: &[Vec<Vec<f64>>], targets: &[Target]) -> f64 {
    let nats = |target: &Target| {
        let scores = &logits[target.row][target.position];
        let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - highest).exp()).sum();
        highest + sum.ln() - scores[target.token as usize]
    };
    targets.iter().map(nats).sum::<f64>() / targets.len() as f64
}
