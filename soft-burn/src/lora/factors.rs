//! The numbers of an adapter: factors of a weight, or a whole weight.

/// A, `[rank, d_in]`, and B, `[d_out, rank]`, row by row. The weight is read as W + scale · B·A.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Factors {
    pub a: Vec<f32>,
    pub b: Vec<f32>,
    pub rank: usize,
    pub scale: f64,
}

impl Factors {
    /// `[d_out, d_in]` of the weight they are for.
    pub(super) fn shape(&self) -> [usize; 2] {
        [self.b.len() / self.rank, self.a.len() / self.rank]
    }
}

/// A weight, row by row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WholeWeight {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}
