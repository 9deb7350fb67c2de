//! The values of an adapter: factors of a weight, or a full weight.

/// A, `[rank, d_in]`, and B, `[d_out, rank]`, row-major. The adapted weight is W + scale · B·A.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Factors {
    pub a: Vec<f32>,
    pub b: Vec<f32>,
    pub rank: usize,
    pub scale: f64,
}

impl Factors {
    /// `[d_out, d_in]` of the adapted weight.
    pub(super) fn shape(&self) -> [usize; 2] {
        [self.b.len() / self.rank, self.a.len() / self.rank]
    }
}

/// A full weight, row-major.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WholeWeight {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}
