//! States of several rows, one row after the other, and whose each is.
//!
//! What travels through the blocks and what waits at exits is kept in this form. Within a row states stand
//! in the order of their positions; nothing is padded.

use crate::model::decode_model::DecodeModel;

/// Packed states and the row of each; rows ascend.
pub(crate) struct Packed<H> {
    pub hidden: H,
    pub rows: Vec<usize>,
}

impl<H> Packed<H> {
    /// States of each of `rows` rows.
    pub fn counts(&self, rows: usize) -> Vec<usize> {
        let mut counts = vec![0; rows];
        for &row in &self.rows {
            counts[row] += 1;
        }
        counts
    }

    /// Index of the last state of each row that is here.
    pub fn last_of_rows(&self) -> Vec<(usize, usize)> {
        let last = |index: &usize| self.rows.get(index + 1) != Some(&self.rows[*index]);
        let indices = (0..self.rows.len()).filter(last);
        indices.map(|index| (self.rows[index], index)).collect()
    }

    /// Joins `earlier` and `later` states; of one row the earlier ones come first.
    pub fn join<M: DecodeModel<Hidden = H>>(
        model: &M,
        earlier: Option<Self>,
        later: Option<Self>,
    ) -> Result<Option<Self>, M::Error> {
        let (earlier, later) = match (earlier, later) {
            (Some(earlier), Some(later)) => (earlier, later),
            (one, other) => return Ok(one.or(other)),
        };
        let rows = [earlier.rows, later.rows].concat();
        let hidden = model.concat(vec![earlier.hidden, later.hidden])?;
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|&index| rows[index]);
        let joined = Self { hidden, rows };
        joined.pick(model, &order).map(Some)
    }

    /// Parts the rows for which `first` holds from the others.
    pub fn split<M: DecodeModel<Hidden = H>>(
        self,
        model: &M,
        first: impl Fn(usize) -> bool,
    ) -> Result<(Option<Self>, Option<Self>), M::Error> {
        let (ours, others): (Vec<usize>, Vec<usize>) =
            (0..self.rows.len()).partition(|&index| first(self.rows[index]));
        if others.is_empty() {
            return Ok((Some(self), None));
        }
        if ours.is_empty() {
            return Ok((None, Some(self)));
        }
        let part = |indices: &[usize]| -> Result<Self, M::Error> {
            Ok(Self {
                hidden: model.select(&self.hidden, indices)?,
                rows: indices.iter().map(|&index| self.rows[index]).collect(),
            })
        };
        Ok((Some(part(&ours)?), Some(part(&others)?)))
    }

    /// The states at `order`, unless that is how they stand already.
    fn pick<M: DecodeModel<Hidden = H>>(
        self,
        model: &M,
        order: &[usize],
    ) -> Result<Self, M::Error> {
        if order.iter().enumerate().all(|(index, &from)| index == from) {
            return Ok(self);
        }
        Ok(Self {
            hidden: model.select(&self.hidden, order)?,
            rows: order.iter().map(|&index| self.rows[index]).collect(),
        })
    }
}
