//! Attention layer: projections, rotary embedding, cache, padding. Operation: `ops::attention`.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};

use crate::model::layers::Projection;
use crate::ops::attention::{CausalMask, Heads, attend};
use crate::ops::rope::Rotation;
use crate::ops::tensor_store::{Span, TensorStore};
use crate::ops::transfers::upload_indices;

#[derive(Module, Debug)]
pub(crate) struct Attention {
    pub q_proj: Projection,
    pub k_proj: Projection,
    pub v_proj: Projection,
    pub o_proj: Projection,
    #[module(skip)]
    pub heads: Heads,
}

/// Data of a forward pass that all blocks share.
pub(crate) struct Pass {
    /// Number of rows of the batch.
    pub rows: usize,
    /// Positions per row computed in this pass.
    pub seq: usize,
    /// Converts packed states to rows; `None` when the states already form rows.
    pub padding: Option<Padding>,
    /// Rotary angles of those positions.
    pub rotation: Rotation,
    /// Which keys each position attends to; `None` when it attends to all.
    pub mask: Option<CausalMask>,
}

impl Attention {
    /// Maps states `[n, d_model]`, packed or in rows of `seq`, to the same shape. With the store of
    /// this block, new keys and values are appended to it.
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

    /// Rotated keys, and values, of states `[n, d_model]`, as `[rows, n_kv_heads, seq, head_dim]`.
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

/// Index maps between packed states of rows of unequal length and padded rows.
pub(crate) struct Padding {
    /// For each padded position, its packed state; arbitrary for padding.
    unpack: Tensor<1, Int>,
    /// For each packed state, its padded position.
    pack: Tensor<1, Int>,
}

impl Padding {
    /// For rows with these numbers of states, padded to `seq`; `None` when all have `seq` states.
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
            upload_indices(values, shape, device)
        };
        Some(Self {
            unpack: indices(unpack),
            pack: indices(pack),
        })
    }
}
