//! Laws of the heads: best tokens, scores and logit rows agree with the logits.

use super::laws::Laws;
use super::uncached::{best_token, single};
use super::{LawBroken, Observed, failed};
use crate::model::decode_model::{Head, Score};

impl<M: Observed> Laws<'_, M> {
    /// Checks the heads of all exits, and draft heads, which have the logits of their tokens.
    pub(super) fn heads_agree(&self) -> Result<(), LawBroken> {
        const LAW: &str = "best tokens, scores and logit rows = what the logits say";
        let some: Vec<u32> = (0..self.model.vocab() as u32).skip(1).step_by(2).collect();
        let tokens = self.model.tokens(&self.rows[..1]).map_err(failed(LAW))?;
        for exit in self.exits.iter() {
            let hidden = self.model.embed(&tokens).map_err(failed(LAW))?;
            let hidden = self.model.blocks(hidden, 0..exit.depth(), None);
            let hidden = hidden.and_then(|hidden| self.model.at_exit(hidden, exit, None));
            let hidden = hidden.map_err(failed(LAW))?;
            let logits = self.model.logits(&hidden, exit).map_err(failed(LAW))?;
            let logits = self.model.logit_values(&logits);
            let mut logits = logits.map_err(failed(LAW))?.concat();
            self.head_agrees(LAW, (&hidden, &logits), Head::Full(exit))?;
            if some.is_empty() {
                continue;
            }
            for row in &mut logits {
                *row = some.iter().map(|&token| row[token as usize]).collect();
            }
            let head = self.model.draft_head(exit, &some).map_err(failed(LAW))?;
            self.head_agrees(LAW, (&hidden, &logits), Head::Draft(&head))?;
        }
        Ok(())
    }

    fn head_agrees(
        &self,
        law: &'static str,
        (hidden, logits): (&M::Hidden, &[Vec<f64>]),
        head: Head<M::DraftHead>,
    ) -> Result<(), LawBroken> {
        let rows = self.model.logit_rows(hidden, head).map_err(failed(law))?;
        let best = self.model.best_tokens(hidden, head).map_err(failed(law))?;
        let scores = self.model.scores(hidden, head).map_err(failed(law))?;
        for (position, expected) in logits.iter().enumerate() {
            let place = || format!("position {position}");
            for (&expected, &found) in expected.iter().zip(&rows[position]) {
                // Logit rows are in single precision.
                let rounded = f64::from(expected as f32);
                self.close_at(law, place, rounded, f64::from(found))?;
            }
            let first = f64::from(best_token(expected));
            let (best, score) = (best[position], &scores[position]);
            for token in [best, score.token] {
                let behind = expected[first as usize] - expected[token as usize];
                if behind.is_nan() || behind >= self.tolerance || behind == 0.0 {
                    self.close_at(law, place, first, f64::from(token))?;
                }
            }
            let wanted = Score::of_logits(&single(expected));
            for (wanted, found) in [
                (wanted.probability, score.probability),
                (wanted.second, score.second),
                (wanted.entropy, score.entropy),
            ] {
                self.close_at(law, place, f64::from(wanted), f64::from(found))?;
            }
        }
        Ok(())
    }
}
