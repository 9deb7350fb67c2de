//! Keys and values of one block in tensors on the device.
//!
//! Each is `[rows, n_kv_heads, slots, head_dim]`; position p of a row is in slot p. Slots beyond
//! the filled part of a row hold stale values, which are masked and later overwritten. There are
//! slots for the whole capacity from the start; only padding may need more.

use burn::tensor::{DType as TensorDType, Device, Tensor};

use crate::ops::attention::Heads;

/// Keys and values of one block; `None` before the first position.
#[derive(Clone, Debug)]
pub(crate) struct TensorStore {
    stored: Option<(Tensor<4>, Tensor<4>)>,
    rows: usize,
    capacity: usize,
    heads: Heads,
    device: Device,
}

/// The positions of a pass: the same number for every row, some of which may be padding.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    /// First new position of each row.
    pub starts: Vec<usize>,
    /// Number of new positions, the same for all rows.
    pub seq: usize,
    /// Maximum number of keys that a row can attend to after the pass.
    pub keys: usize,
}

impl Span {
    /// The `seq` positions that follow those of each row.
    pub fn new(starts: Vec<usize>, seq: usize) -> Self {
        let keys = starts.iter().max().map_or(seq, |most| most + seq);
        Self { starts, seq, keys }
    }

    /// The start that all rows have in common, if any.
    pub fn common_start(&self) -> Option<usize> {
        let first = *self.starts.first()?;
        let same = self.starts.iter().all(|&start| start == first);
        same.then_some(first)
    }
}

impl TensorStore {
    /// An empty store of at most `capacity` positions per row. Memory is taken when the first are
    /// added.
    pub fn new((rows, capacity): (usize, usize), heads: Heads, device: Device) -> Self {
        // The kernels write into the store, which is not differentiated.
        #[cfg(feature = "cube")]
        let device = if crate::ops::cube::runs_on(&device) {
            device.inner()
        } else {
            device
        };
        Self {
            stored: None,
            rows,
            capacity,
            heads,
            device,
        }
    }

    /// Stores new keys and values, `[rows, n_kv_heads, seq, head_dim]`, and returns all that a row
    /// can attend to, `[rows, n_kv_heads, keys, head_dim]`.
    pub fn append(&mut self, span: &Span, k: Tensor<4>, v: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let (keys, values) = self.take(span.keys, k.dtype());
        let (keys, values) = (write(keys, span, k), write(values, span, v));
        let seen = |stored: &Tensor<4>| stored.clone().narrow(2, 0, span.keys);
        let visible = (seen(&keys), seen(&values));
        self.put((keys, values));
        visible
    }

    /// Puts back what [`take`](Self::take) returned.
    pub fn put(&mut self, stored: (Tensor<4>, Tensor<4>)) {
        self.stored = Some(stored);
    }

    /// Takes out the stored tensors, extended to at least `keys` slots.
    pub fn take(&mut self, keys: usize, dtype: TensorDType) -> (Tensor<4>, Tensor<4>) {
        let slots = self.stored.as_ref().map_or(0, |(keys, _)| keys.dims()[2]);
        let wanted = keys.max(self.capacity).max(slots);
        let Heads { key_value, dim, .. } = self.heads;
        let shape = [self.rows, key_value, wanted - slots, dim];
        let room = || Tensor::zeros(shape, (&self.device, dtype));
        match self.stored.take() {
            Some(stored) if slots >= keys => stored,
            Some((keys, values)) => (
                Tensor::cat(vec![keys, room()], 2),
                Tensor::cat(vec![values, room()], 2),
            ),
            None => (room(), room()),
        }
    }
}

/// Writes `new` at each row's start, in place where the backend supports it.
fn write(stored: Tensor<4>, span: &Span, new: Tensor<4>) -> Tensor<4> {
    let [rows, heads, _, dim] = stored.dims();
    if let Some(start) = span.common_start() {
        return stored.slice_assign([0..rows, 0..heads, start..start + span.seq, 0..dim], new);
    }
    let place = |stored: Tensor<4>, (row, &start): (usize, &usize)| {
        let row_of_new = new.clone().narrow(0, row, 1);
        stored.slice_assign(
            [row..row + 1, 0..heads, start..start + span.seq, 0..dim],
            row_of_new,
        )
    };
    span.starts.iter().enumerate().fold(stored, place)
}
