//! Rotary causal attention of packed states: rows of unequal length without padding between them.
//!
//! The reference implementation pads the rows to a common length, attends, and packs the result;
//! results for padding are never read. The kernels for GPUs process packed states directly.

use burn::tensor::{Device, Int, Tensor};

use crate::ops::attention::{CausalMask, Heads, attend};
#[cfg(feature = "cube")]
use crate::ops::cube;
use crate::ops::rope::{Rotary, Rotation};
use crate::ops::tensor_store::{Span, TensorStore};
use crate::ops::transfers::upload_indices;

/// Data of a forward pass that all blocks share.
pub(crate) enum Pass {
    Padded(Box<Padded>),
    #[cfg(feature = "cube")]
    Ragged(Box<cube::Ragged>),
}

/// The rows of a pass.
#[derive(Clone, Copy)]
pub(crate) struct PassShape<'a> {
    pub rotary: &'a Rotary,
    /// Row i has `counts[i]` of the span's positions.
    pub counts: &'a [usize],
    pub span: &'a Span,
    /// The window of the blocks that have one ([`Qkv::window`]).
    pub window: Option<usize>,
}

/// Queries, keys and values of all heads, `[n, heads * head_dim]` each.
pub(crate) struct Qkv {
    pub q: Tensor<2>,
    pub k: Tensor<2>,
    pub v: Tensor<2>,
    /// Positions a position attends to, itself included: `None`, for all up to its own, or the
    /// window of the pass.
    pub window: Option<usize>,
}

impl Pass {
    pub fn new(shape: PassShape, device: &Device) -> Self {
        #[cfg(feature = "cube")]
        if cube::runs_on(device) {
            let rows = cube::Ragged::new(shape.rotary, shape.counts, shape.span, device);
            return Self::Ragged(Box::new(rows));
        }
        Self::Padded(Box::new(Padded::new(shape, device)))
    }

    /// Attention of the states of every row to those at or before their own position, in the order
    /// and layout of `q`. With the store of the block, new keys and values are appended to it and
    /// all that it holds of a row are attended to.
    pub fn attend(
        &self,
        qkv: Qkv,
        heads: Heads,
        stored: Option<(&mut TensorStore, &Span)>,
    ) -> Tensor<2> {
        match self {
            Self::Padded(padded) => padded.attend(qkv, heads, stored),
            #[cfg(feature = "cube")]
            Self::Ragged(ragged) => ragged.attend(qkv, heads, stored.map(|(store, _)| store)),
        }
    }

    /// Appends keys and values to the store of a block, without attention.
    pub fn append(
        &self,
        (k, v): (Tensor<2>, Tensor<2>),
        heads: Heads,
        (store, span): (&mut TensorStore, &Span),
    ) {
        match self {
            Self::Padded(padded) => {
                let (k, v) = padded.keys_and_values(k, v, heads);
                store.append(span, k, v);
            }
            #[cfg(feature = "cube")]
            Self::Ragged(ragged) => ragged.append((k, v), heads, store),
        }
    }
}

/// Rows padded to a common length.
pub(crate) struct Padded {
    rows: usize,
    /// Positions per row.
    seq: usize,
    /// `None` when the packed states already form rows.
    padding: Option<Padding>,
    rotation: Rotation,
    /// `None` when every position attends to every key.
    mask: Option<CausalMask>,
    /// Of the blocks with a window, where it is shorter than the rows.
    window_mask: Option<CausalMask>,
}

impl Padded {
    fn new(shape: PassShape, device: &Device) -> Self {
        let PassShape {
            rotary,
            counts,
            span,
            window,
        } = shape;
        // Rows that continue at the same position share angles and mask.
        let common = span.common_start().map(|start| [start]);
        let starts = common
            .as_ref()
            .map_or(span.starts.as_slice(), |start| start.as_slice());
        Self {
            rows: counts.len(),
            seq: span.seq,
            padding: Padding::new(counts, span.seq, device),
            rotation: Rotation::new(rotary, starts, span.seq, device),
            mask: CausalMask::new(starts, (span.seq, span.keys), None, device),
            window_mask: window
                .filter(|&window| window < span.keys)
                .and_then(|_| CausalMask::new(starts, (span.seq, span.keys), window, device)),
        }
    }

    fn attend(
        &self,
        Qkv { q, k, v, window }: Qkv,
        heads: Heads,
        stored: Option<(&mut TensorStore, &Span)>,
    ) -> Tensor<2> {
        let q = self.rotation.apply(self.split(q, heads.query));
        let (k, v) = self.keys_and_values(k, v, heads);
        let (k, v) = match stored {
            Some((store, span)) => store.append(span, k, v),
            None => (k, v),
        };
        let window_mask = window.and(self.window_mask.as_ref());
        let mask = window_mask.or(self.mask.as_ref());
        let mixed = attend(q, (k, v), mask).swap_dims(1, 2);
        let mixed = mixed.reshape([self.rows * self.seq, heads.query * heads.dim]);
        match &self.padding {
            Some(padding) => mixed.select(0, padding.pack.clone()),
            None => mixed,
        }
    }

    fn keys_and_values(&self, k: Tensor<2>, v: Tensor<2>, heads: Heads) -> (Tensor<4>, Tensor<4>) {
        let k = self.rotation.apply(self.split(k, heads.key_value));
        (k, self.split(v, heads.key_value))
    }

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

/// Index maps between packed states and padded rows.
struct Padding {
    /// For each padded position, its packed state; arbitrary for padding.
    unpack: Tensor<1, Int>,
    /// For each packed state, its padded position.
    pack: Tensor<1, Int>,
}

impl Padding {
    /// For rows with these numbers of states, padded to `seq`; `None` when all have `seq` states.
    fn new(counts: &[usize], seq: usize, device: &Device) -> Option<Self> {
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
