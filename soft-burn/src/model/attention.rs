//! An attention layer: projections, rotary positions, cache, and rows of different lengths. The
//! attention itself is `ops::attention`.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::model::layers::Projection;
use crate::ops::attention::{CausalMask, Heads, attend};
use crate::ops::rope::Rotation;
use crate::ops::tensor_store::{Span, TensorStore};

/// The four projections of an attention layer and its head counts.
#[derive(Module, Debug)]
pub(crate) struct Attention {
    pub q_proj: Projection,
    pub k_proj: Projection,
    pub v_proj: Projection,
    pub o_proj: Projection,
    #[module(skip)]
    pub heads: Heads,
}

/// What the blocks of one forward pass share: computed once, used by every layer.
pub(crate) struct Pass {
    /// Number of rows of the batch.
    pub rows: usize,
    /// Positions computed in this pass.
    pub seq: usize,
    /// How packed states become such rows; none when they are such rows.
    pub padding: Option<Padding>,
    /// Rotary angles of those positions.
    pub rotation: Rotation,
    /// Which keys each position sees; none needed when it sees all.
    pub mask: Option<CausalMask>,
}

impl Attention {
    /// States `[n, d_model]` to the same: rows of `seq` states, or packed ones. With a store, which
    /// is that of this block, the new keys and values go there.
    pub fn forward(
        &self,
        x: Tensor<2>,
        pass: &Pass,
        stored: Option<(&mut TensorStore, &Span)>,
    ) -> Tensor<2> {
        let Heads { query, dim, .. } = self.heads;
        let (rows, seq) = (pass.rows, pass.seq);
        let q = pass
            .rotation
            .apply(pass.split(self.q_proj.forward(x.clone()), query));
        let (k, v) = self.keys_and_values(x, pass);
        let (k, v) = match stored {
            Some((store, span)) => store.append(span, k, v),
            None => (k, v),
        };
        let mixed = attend(q, (k, v), pass.mask.as_ref());
        let mixed = mixed.swap_dims(1, 2).reshape([rows * seq, query * dim]);
        self.o_proj.forward(match &pass.padding {
            Some(padding) => mixed.select(0, padding.pack.clone()),
            None => mixed,
        })
    }

    /// Turned keys and values of states `[n, d_model]`, `[rows, n_kv_heads, seq, head_dim]` each.
    fn keys_and_values(&self, x: Tensor<2>, pass: &Pass) -> (Tensor<4>, Tensor<4>) {
        let heads = self.heads.key_value;
        let k = pass.split(self.k_proj.forward(x.clone()), heads);
        let v = pass.split(self.v_proj.forward(x), heads);
        (pass.rotation.apply(k), v)
    }
}

impl Pass {
    /// `[n, heads * head_dim]` to `[rows, heads, seq, head_dim]`.
    fn split(&self, x: Tensor<2>, heads: usize) -> Tensor<4> {
        let x = match &self.padding {
            Some(padding) => x.select(0, padding.unpack.clone()),
            None => x,
        };
        let dim = x.dims()[1] / heads;
        x.reshape([self.rows, self.seq, heads, dim]).swap_dims(1, 2)
    }
}

/// How packed states of ragged rows become rows of equal length and back.
pub(crate) struct Padding {
    /// For every place of the padded rows a packed state; any where there is none.
    unpack: Tensor<1, Int>,
    /// For every packed state its place in the padded rows.
    pack: Tensor<1, Int>,
}

impl Padding {
    /// For rows of these many states, padded to `seq`; none when all have as many.
    pub fn new(counts: &[usize], seq: usize, device: &Device) -> Option<Self> {
        if counts.iter().all(|&count| count == seq) {
            return None;
        }
        let (mut unpack, mut pack) = (Vec::new(), Vec::new());
        let mut first = 0;
        for (row, &count) in counts.iter().enumerate() {
            unpack.extend((first..first + count).map(|state| state as i64));
            unpack.resize((row + 1) * seq, 0);
            pack.extend((row * seq..row * seq + count).map(|place| place as i64));
            first += count;
        }
        let indices = |values: Vec<i64>| {
            let shape = [values.len()];
            Tensor::from_data(TensorData::new(values, shape), device)
        };
        Some(Self {
            unpack: indices(unpack),
            pack: indices(pack),
        })
    }
}
