//! The rows of a pass on the device, and rotary attention of their packed states.

use burn::tensor::{Device, Tensor};
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::attention::{Attended, Keys, attend};
use super::attention_backward::gradients;
use super::decoding_attention::attend_singly;
use super::matvec::MOST_STATES;
use super::tensor::{
    Kept, apply, buffer, empty_like, index_buffer, input, own, storage, tensor, units,
};
use crate::ops::attention::Heads;
use crate::ops::packed_attention::Qkv;
use crate::ops::rope::{Rotary, cosines_and_sines};
use crate::ops::tensor_store::{Span, TensorStore};
use crate::ops::transfers::{upload, upload_indices};

/// The rows of a pass.
#[derive(Clone, Debug)]
pub(crate) struct Ragged {
    /// The first state of every row and their number, `[rows + 1]`; the first position of every
    /// row, `[rows]`; then of every state its row and its line in `angles`, `[states]` each.
    pub(super) layout: CubeTensor,
    /// Cosines, then sines, `[2, lines, head_dim / 2]`.
    angles: CubeTensor,
    pub(super) rows: usize,
    pub(super) states: usize,
    /// States of the longest row.
    pub(super) longest: usize,
    /// Number of keys of the longest row after the pass.
    keys: usize,
}

impl Ragged {
    pub fn new(rotary: &Rotary, counts: &[usize], span: &Span, device: &Device) -> Self {
        let device = &device.clone().inner();
        let common = span.common_start();
        let (mut firsts, mut positions) = (vec![0], Vec::new());
        let (mut rows, mut lines) = (Vec::new(), Vec::new());
        for (row, (&count, &start)) in counts.iter().zip(&span.starts).enumerate() {
            let line = if common.is_some() { 0 } else { positions.len() };
            positions.extend(start..start + count);
            lines.extend((line..line + count).map(|line| line as i64));
            rows.extend(std::iter::repeat_n(row as i64, count));
            firsts.push(positions.len() as i64);
        }
        let states = positions.len();
        // Rows that start together share the lines of their positions.
        if let Some(start) = common {
            positions = (start..start + span.seq).collect();
        }
        let starts: Vec<_> = span.starts.iter().map(|&start| start as i64).collect();
        let layout = [firsts, starts, rows, lines].concat();
        let shape = [layout.len()];
        let (cos, sin) = cosines_and_sines(rotary, positions.iter().copied());
        let table = [2, positions.len(), rotary.frequencies.len()];
        Self {
            layout: index_buffer(upload_indices(layout, shape, device)),
            angles: buffer(upload([cos, sin].concat(), table, device)),
            rows: counts.len(),
            states,
            longest: counts.iter().copied().max().unwrap_or(0),
            keys: span.keys,
        }
    }

    /// See [`Pass::attend`](crate::ops::packed_attention::Pass::attend).
    pub fn attend(&self, qkv: Qkv, heads: Heads, stored: Option<&mut TensorStore>) -> Tensor<2> {
        let Qkv { q, k, v, window } = qkv;
        let attended = match [&q, &k, &v].map(input) {
            [Some(q), Some(k), Some(v)] => apply([q, k, v], |qkv, _| match stored {
                None => self.attend_within(qkv, heads, window),
                Some(store) => (self.attend_to_store(qkv, heads, (store, window)), None),
            }),
            _ => None,
        };
        attended.unwrap_or_else(|| unreachable!("the states are on the device of the pass"))
    }

    fn attend_within(
        &self,
        [q, k, v]: [CubeTensor; 3],
        heads: Heads,
        window: Option<usize>,
    ) -> (CubeTensor, SavedAttention) {
        let (q, k) = self.rotated(q, k, heads, 1.0);
        let keys = Keys::of_the_pass(k, v, heads);
        let attended = attend(self, &q, keys, heads, self.window(window));
        (attended.out.clone(), Some((self.clone(), attended, heads)))
    }

    /// The positions that a position attends to, at most those of the longest row.
    fn window(&self, window: Option<usize>) -> usize {
        window.unwrap_or(self.keys).min(self.keys)
    }

    /// Attention to what the store holds after new keys and values are appended to it.
    pub(super) fn attend_to_store(
        &self,
        [q, k, v]: [CubeTensor; 3],
        heads: Heads,
        (store, window): (&mut TensorStore, Option<usize>),
    ) -> CubeTensor {
        let window = self.window(window);
        let (q_out, keys, values) = self.rotate_into([q, k, v], heads, store);
        let slots = keys.meta.shape()[2];
        let seen = Keys {
            k: keys.clone(),
            v: values.clone(),
            row_stride: Some(heads.key_value * slots * heads.dim),
            head_stride: slots * heads.dim,
            key_stride: heads.dim,
        };
        let out = if self.longest <= MOST_STATES {
            attend_singly(self, &q_out, &seen, heads, window)
        } else {
            attend(self, &q_out, seen, heads, window).out
        };
        store.put((tensor(keys), tensor(values)));
        out
    }

    /// See [`Pass::append`](crate::ops::packed_attention::Pass::append).
    pub fn append(&self, (k, v): (Tensor<2>, Tensor<2>), heads: Heads, store: &mut TensorStore) {
        let (k, v) = (buffer(k), buffer(v));
        // Without query heads nothing is read from the queries, nor written.
        let heads = Heads { query: 0, ..heads };
        let (_, keys, values) = self.rotate_into([k.clone(), k, v], heads, store);
        store.put((tensor(keys), tensor(values)));
    }

    /// Rotates queries and keys, and appends keys and values to those in the store, which are taken
    /// out. Returns queries, keys and values.
    fn rotate_into(
        &self,
        [q, k, v]: [CubeTensor; 3],
        heads: Heads,
        store: &mut TensorStore,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let stored = store.take(self.keys, q.dtype);
        let (keys, values) = (own(stored.0), own(stored.1));
        let slots = keys.meta.shape()[2];
        let q_out = empty_like(&q);
        let halves = (q.meta.num_elements() + 2 * k.meta.num_elements()) / 2;
        let (count, dim) = units(halves);
        rotate_into_store::launch(
            &q.client,
            count,
            dim,
            q.clone().into_buffer_arg(),
            k.into_buffer_arg(),
            v.into_buffer_arg(),
            self.layout.clone().into_buffer_arg(),
            self.angles.clone().into_buffer_arg(),
            q_out.clone().into_buffer_arg(),
            keys.clone().into_buffer_arg(),
            values.clone().into_buffer_arg(),
            self.states as u32,
            self.rows as u32,
            slots as u32,
            heads.query,
            heads.key_value,
            heads.dim,
            storage(&q),
            storage(&self.layout),
        );
        (q_out, keys, values)
    }

    /// Queries and keys rotated by their positions times `direction`.
    fn rotated(
        &self,
        q: CubeTensor,
        k: CubeTensor,
        heads: Heads,
        direction: f32,
    ) -> (CubeTensor, CubeTensor) {
        let (q_out, k_out) = (empty_like(&q), empty_like(&k));
        let pairs = (q.meta.num_elements() + k.meta.num_elements()) / 2;
        let (count, dim) = units(pairs);
        rotate::launch(
            &q.client,
            count,
            dim,
            q.clone().into_buffer_arg(),
            k.into_buffer_arg(),
            self.layout.clone().into_buffer_arg(),
            self.angles.clone().into_buffer_arg(),
            q_out.clone().into_buffer_arg(),
            k_out.clone().into_buffer_arg(),
            direction,
            self.states as u32,
            heads.query,
            heads.key_value,
            heads.dim,
            storage(&q),
            storage(&self.layout),
        );
        (q_out, k_out)
    }
}

/// Without a store: the pass, queries, keys and values, and what attention found.
type SavedAttention = Option<(Ragged, Attended, Heads)>;

impl Kept<3> for SavedAttention {
    fn gradients(self, gradient: CubeTensor, _wanted: [bool; 3]) -> [Option<CubeTensor>; 3] {
        // With a store there is no backward pass: decoding runs without autodiff.
        let Some((rows, attended, heads)) = self else {
            return [None, None, None];
        };
        let [q, k, v] = gradients(&rows, attended, gradient, heads);
        let (q, k) = rows.rotated(q, k, heads, -1.0);
        [Some(q), Some(k), Some(v)]
    }
}

/// One unit rotates one pair of a head of one state, or copies a pair of a value.
#[cube(launch)]
fn rotate_into_store<F: Float, I: Int>(
    q: &[F],
    k: &[F],
    v: &[F],
    layout: &[I],
    angles: &[f32],
    q_out: &mut [F],
    keys: &mut [F],
    values: &mut [F],
    states: u32,
    rows: u32,
    slots: u32,
    #[comptime] q_heads: usize,
    #[comptime] k_heads: usize,
    #[comptime] dim: usize,
    #[define(F)] _f: ElemType,
    #[define(I)] _i: ElemType,
) {
    let half = comptime!(dim / 2);
    let heads = comptime!(q_heads + 2 * k_heads);
    let (states, rows, slots) = (states as usize, rows as usize, slots as usize);
    if ABSOLUTE_POS >= states * heads * half {
        terminate!();
    }
    let pair = ABSOLUTE_POS % half;
    let head = (ABSOLUTE_POS / half) % heads;
    let state = ABSOLUTE_POS / (half * heads);
    let line = usize::cast_from(layout[layout.len() - states + state]);
    let row = usize::cast_from(layout[layout.len() - 2 * states + state]);
    let first = usize::cast_from(layout[row]);
    let start = usize::cast_from(layout[rows + 1 + row]);
    let slot = start + state - first;
    let cos = angles[line * half + pair];
    let sin = angles[angles.len() / 2 + line * half + pair];
    if head < q_heads {
        let at = (state * q_heads + head) * dim + pair;
        rotate_pair::<F>(q, at, q_out, at, cos, sin, half);
    } else {
        let is_key = head < comptime!(q_heads + k_heads);
        let head = (head - q_heads) % k_heads;
        let at = (state * k_heads + head) * dim + pair;
        let to = ((row * k_heads + head) * slots + slot) * dim + pair;
        if is_key {
            rotate_pair::<F>(k, at, keys, to, cos, sin, half);
        } else {
            values[to] = v[at];
            values[to + half] = v[at + half];
        }
    }
}

/// Writes the pair at `at` of `from`, whose second element is `half` further, rotated to `to`.
#[cube]
fn rotate_pair<F: Float>(
    from: &[F],
    at: usize,
    out: &mut [F],
    to: usize,
    cos: f32,
    sin: f32,
    #[comptime] half: usize,
) {
    let (a, b) = (f32::cast_from(from[at]), f32::cast_from(from[at + half]));
    out[to] = F::cast_from(a * cos - b * sin);
    out[to + half] = F::cast_from(b * cos + a * sin);
}

/// One unit rotates one pair of a head of one state.
#[cube(launch)]
fn rotate<F: Float, I: Int>(
    q: &[F],
    k: &[F],
    layout: &[I],
    angles: &[f32],
    q_out: &mut [F],
    k_out: &mut [F],
    direction: f32,
    states: u32,
    #[comptime] q_heads: usize,
    #[comptime] k_heads: usize,
    #[comptime] dim: usize,
    #[define(F)] _f: ElemType,
    #[define(I)] _i: ElemType,
) {
    let half = comptime!(dim / 2);
    let heads = comptime!(q_heads + k_heads);
    let states = states as usize;
    if ABSOLUTE_POS >= states * heads * half {
        terminate!();
    }
    let pair = ABSOLUTE_POS % half;
    let head = (ABSOLUTE_POS / half) % heads;
    let state = ABSOLUTE_POS / (half * heads);
    let line = usize::cast_from(layout[layout.len() - states + state]);
    let cos = angles[line * half + pair];
    let sin = angles[angles.len() / 2 + line * half + pair] * direction;
    if head < q_heads {
        let at = (state * q_heads + head) * dim + pair;
        rotate_pair::<F>(q, at, q_out, at, cos, sin, half);
    } else {
        let at = (state * k_heads + head - q_heads) * dim + pair;
        rotate_pair::<F>(k, at, k_out, at, cos, sin, half);
    }
}
