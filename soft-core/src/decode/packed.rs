//! Packed states of several rows, and the row of each state.
//!
//! Used for states in the blocks and for states deferred at exits. Within a row, states are in the
//! order of their positions; nothing is padded.

use crate::model::decode_model::DecodeModel;

#[derive(Clone)]
pub(crate) struct Packed<H> {
    pub hidden: H,
    pub rows: Vec<usize>,
}

impl<H> Packed<H> {
    /// Number of states of each of `rows` rows.
    pub fn counts(&self, rows: usize) -> Vec<usize> {
        let mut counts = vec![0; rows];
        for &row in &self.rows {
            counts[row] += 1;
        }
        counts
    }

    /// Each row that has states, and the index of its last state.
    pub fn last_of_rows(&self) -> Vec<(usize, usize)> {
        let last = |index: &usize| self.rows.get(index + 1) != Some(&self.rows[*index]);
        let indices = (0..self.rows.len()).filter(last);
        indices.map(|index| (self.rows[index], index)).collect()
    }

    /// Merges `earlier` and `later` states; within a row the earlier ones come first.
    pub fn merge<M: DecodeModel<Hidden = H>>(
        model: &M,
        earlier: Option<Self>,
        later: Option<Self>,
    ) -> Result<Option<Self>, M::Error> {
        Self::merge_all(model, earlier.into_iter().chain(later).collect())
    }

    /// Merges the states of all parts; within a row, those of an earlier part come first.
    pub fn merge_all<M: DecodeModel<Hidden = H>>(
        model: &M,
        mut parts: Vec<Self>,
    ) -> Result<Option<Self>, M::Error> {
        if parts.len() < 2 {
            return Ok(parts.pop());
        }
        let rows: Vec<usize> = parts.iter().flat_map(|part| &part.rows).copied().collect();
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|&index| rows[index]);
        let parts: Vec<&H> = parts.iter().map(|part| &part.hidden).collect();
        Ok(Some(Self {
            hidden: model.gather(&parts, &order)?,
            rows: order.iter().map(|&index| rows[index]).collect(),
        }))
    }

    /// For each state, the number of later states of its row.
    pub fn later_states(&self) -> Vec<usize> {
        let mut later = vec![0; self.rows.len()];
        for index in (1..self.rows.len()).rev() {
            if self.rows[index - 1] == self.rows[index] {
                later[index - 1] = later[index] + 1;
            }
        }
        later
    }

    /// Separates the states of rows for which `first` holds from the others.
    pub fn split<M: DecodeModel<Hidden = H>>(
        self,
        model: &M,
        first: impl Fn(usize) -> bool,
    ) -> Result<(Option<Self>, Option<Self>), M::Error> {
        let first: Vec<bool> = self.rows.iter().map(|&row| first(row)).collect();
        self.separate(model, |index| first[index])
    }

    /// Separates the states for whose index `first` holds from the others.
    pub fn separate<M: DecodeModel<Hidden = H>>(
        self,
        model: &M,
        first: impl Fn(usize) -> bool,
    ) -> Result<(Option<Self>, Option<Self>), M::Error> {
        let (ours, others): (Vec<usize>, Vec<usize>) =
            (0..self.rows.len()).partition(|&index| first(index));
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
}
