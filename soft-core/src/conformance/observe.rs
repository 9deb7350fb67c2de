//! Runs a model and compares its results.

use std::ops::Range;

use super::laws::Laws;
use super::{LawBroken, Observed, failed};
use crate::exit::Exit;
use crate::model::cache::KvCache;
use crate::model::nested::Past;

/// Logits, `[row][position][token]`.
pub(super) type Values = Vec<Vec<Vec<f64>>>;

impl<M: Observed> Laws<'_, M> {
    pub(super) fn sub_model(
        &self,
        law: &'static str,
        rows: &[Vec<u32>],
        exit: Exit,
    ) -> Result<Values, LawBroken> {
        let tokens = self.model.tokens(rows).map_err(failed(law))?;
        let logits = self.model.sub_model(&tokens, exit);
        let values = logits.and_then(|logits| self.model.logit_values(&logits));
        values.map_err(failed(law))
    }

    /// Logits of the next tokens of every row at `exit`, through the cache.
    pub(super) fn cached(
        &self,
        law: &'static str,
        rows: &[Vec<u32>],
        exit: Exit,
        cache: &mut KvCache<M::KvStore>,
    ) -> Result<Values, LawBroken> {
        let hidden = self.run(law, rows, 0..exit.depth(), cache)?;
        let counts: Vec<usize> = rows.iter().map(Vec::len).collect();
        let past = Past {
            cache,
            query_lens: &counts,
        };
        let hidden = self.model.at_exit(hidden, exit, Some(past));
        self.unpacked(law, &hidden.map_err(failed(law))?, &counts, exit)
    }

    /// Runs the next tokens of every row, packed, through the blocks in `range`.
    pub(super) fn run(
        &self,
        law: &'static str,
        rows: &[Vec<u32>],
        range: Range<usize>,
        cache: &mut KvCache<M::KvStore>,
    ) -> Result<M::Hidden, LawBroken> {
        let counts: Vec<usize> = rows.iter().map(Vec::len).collect();
        let tokens = self.model.tokens(&[rows.concat()]).map_err(failed(law))?;
        let hidden = self.model.embed(&tokens).map_err(failed(law))?;
        let past = Past {
            cache,
            query_lens: &counts,
        };
        self.model
            .blocks(hidden, range, Some(past))
            .map_err(failed(law))
    }

    /// Logits of packed states at `exit`, split into rows.
    pub(super) fn unpacked(
        &self,
        law: &'static str,
        hidden: &M::Hidden,
        counts: &[usize],
        exit: Exit,
    ) -> Result<Values, LawBroken> {
        let logits = self.model.logits(hidden, exit);
        let values = logits.and_then(|logits| self.model.logit_values(&logits));
        let mut packed = values.map_err(failed(law))?.into_iter().flatten();
        let row = |&count: &usize| packed.by_ref().take(count).collect();
        Ok(counts.iter().map(row).collect())
    }

    pub(super) fn same(
        &self,
        law: &'static str,
        expected: &[Vec<Vec<f64>>],
        found: &[Vec<Vec<f64>>],
    ) -> Result<(), LawBroken> {
        self.close(
            law,
            "number of rows".into(),
            expected.len() as f64,
            found.len() as f64,
        )?;
        for (row, (expected, found)) in expected.iter().zip(found).enumerate() {
            self.close(
                law,
                format!("positions of row {row}"),
                expected.len() as f64,
                found.len() as f64,
            )?;
            for (position, (expected, found)) in expected.iter().zip(found).enumerate() {
                for (token, (&expected, &found)) in expected.iter().zip(found).enumerate() {
                    let place = || format!("row {row}, position {position}, token {token}");
                    self.close_at(law, place, expected, found)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn close(
        &self,
        law: &'static str,
        place: String,
        expected: f64,
        found: f64,
    ) -> Result<(), LawBroken> {
        self.close_at(law, || place, expected, found)
    }

    pub(super) fn close_at(
        &self,
        law: &'static str,
        place: impl FnOnce() -> String,
        expected: f64,
        found: f64,
    ) -> Result<(), LawBroken> {
        // Written so that NaN counts as a difference.
        if (expected - found).abs() <= self.tolerance {
            return Ok(());
        }
        Err(LawBroken::Differs {
            law,
            place: place(),
            expected,
            found,
        })
    }
}
