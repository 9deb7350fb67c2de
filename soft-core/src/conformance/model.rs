//! The laws of a model: forward pass, cache, heads, loss.
//!
//! More laws are in `cache_laws`, `head_laws` and `loss_laws`; those of decoding are in `decoding`.

use super::cache_laws::{staircases_catch_up, truncated};
use super::laws::Laws;
use super::{LawBroken, Observed, failed};

impl<M: Observed> Laws<'_, M> {
    /// Checks all laws.
    ///
    /// # Errors
    /// The first law that is violated.
    pub fn check(&self) -> Result<(), LawBroken> {
        self.exits_share_one_pass()?;
        self.later_tokens_change_nothing()?;
        self.cached_is_uncached()?;
        self.late_blocks_catch_up()?;
        self.appended_is_run()?;
        self.forgotten_positions_can_be_rewritten()?;
        self.ragged_rows_are_each_row_alone()?;
        staircases_catch_up(self.model, &self.rows, &self.exits, self.tolerance)?;
        self.heads_agree()?;
        self.sorted_loss_is_the_mean()?;
        self.padding_changes_nothing()
    }

    /// One pass that stops at every exit equals separate passes of the sub-models.
    fn exits_share_one_pass(&self) -> Result<(), LawBroken> {
        const LAW: &str = "one pass through all exits = each sub-model alone";
        let tokens = self.model.tokens(&self.rows).map_err(failed(LAW))?;
        let mut shared = Vec::new();
        let visit = self
            .model
            .visit_exits(&tokens, &self.exits, |exit, hidden| {
                shared.push((exit, self.model.logits(hidden, exit)?));
                Ok(())
            });
        visit.map_err(failed(LAW))?;
        for (exit, logits) in shared {
            let alone = self.sub_model(LAW, &self.rows, exit)?;
            let shared = self.model.logit_values(&logits).map_err(failed(LAW))?;
            self.same(LAW, &alone, &shared)?;
        }
        Ok(())
    }

    fn later_tokens_change_nothing(&self) -> Result<(), LawBroken> {
        const LAW: &str = "later tokens change nothing earlier";
        let seq = self.rows[0].len();
        let mut changed = self.rows.clone();
        for (row, other) in changed.iter_mut().zip(self.rows.iter().rev()) {
            row[seq - 1] = other[0];
        }
        let exit = self.exits.last();
        let before = self.sub_model(LAW, &self.rows, exit)?;
        let after = self.sub_model(LAW, &changed, exit)?;
        self.same(
            LAW,
            &truncated(&before, seq - 1),
            &truncated(&after, seq - 1),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exits;
    use crate::model::decode_model::DecodeModel;
    use crate::model::nested::{NestedModel, Past};
    use crate::toy::ToyModel;
    use proptest::prelude::*;

    const VOCAB: u32 = 7;

    proptest! {
        #[test]
        fn toy_model_obeys_the_laws(
            seed: u64,
            depth in 2usize..6,
            rows in (1usize..5, 4usize..9).prop_flat_map(|(rows, seq)| {
                proptest::collection::vec(proptest::collection::vec(0..VOCAB, seq), rows)
            }),
            first in 1usize..3,
            own_blocks: bool,
        ) {
            let mut model = ToyModel::new(depth, 5, VOCAB as usize, seed);
            let exits = Exits::every(first, first..=depth).unwrap();
            if own_blocks {
                model = model.with_exit_blocks(exits.iter().take(exits.len() - 1));
            }
            let laws = Laws { model: &model, rows, exits, tolerance: 1e-9 };
            laws.check().unwrap();
        }
    }

    #[test]
    fn a_full_cache_is_an_error() {
        let model = ToyModel::new(2, 5, VOCAB as usize, 1);
        let mut cache = model.empty_cache(1, 2).unwrap();
        let hidden = model.embed(&vec![vec![1, 2, 3]]).unwrap();
        let past = Past {
            cache: &mut cache,
            query_lens: &[3],
        };
        assert!(model.blocks(hidden, 0..2, Some(past)).is_err());
    }
}
