//! Linear layers for few states: dot products with a single sequential read of the weights.
//!
//! With one state a linear layer is memory-bound: every weight is read once and used once. With a
//! few states it should cost about the same, since the weights are still read once, but blocked
//! matrix products, designed for many rows, cost more. A loop over output rows reads the weights as
//! long sequential streams, which the hardware prefetcher follows; alternating between neighboring
//! rows halves the bandwidth. A few rows that are far apart are computed together and share the
//! loads of the states. With several states the arithmetic between two loads hides the stream from
//! the prefetcher, so weights are prefetched explicitly.
//!
//! An output is one dot product, summed along the width in a fixed order by one vector accumulator.
//! It does not depend on what else is computed: the kernel is batch-invariant.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub values: &'a [f32],
    pub width: usize,
}

impl<'a> Rows<'a> {
    pub fn count(&self) -> usize {
        self.values.len() / self.width
    }

    pub fn row(&self, index: usize) -> &'a [f32] {
        &self.values[index * self.width..][..self.width]
    }
}

/// A weight matrix `[d_out, d_in]` and the output of its product with the states, `[n, d_out]`.
pub(crate) struct Product<'a> {
    pub weight: &'a [f32],
    pub out: &'a mut [f32],
}

/// `out[r][o] = x[r] · weight[o]` for every product, on all threads.
pub(crate) fn linear(arch: Arch, x: Rows, products: &mut [Product]) {
    let work: usize = products.iter().map(|product| product.weight.len()).sum();
    let threads = rayon::current_num_threads();
    if threads == 1 || work * x.count() < SMALL {
        for Product { weight, out } in products {
            let mut out: Vec<_> = out.chunks_mut(weight.len() / x.width).collect();
            dot_products(arch, x, weight, &mut out);
        }
        return;
    }
    let parts = threads * PARTS_PER_THREAD;
    let mut tasks: Vec<Vec<Task>> = (0..parts).map(|_| Vec::new()).collect();
    for Product { weight, out } in products {
        deal(x, weight, out, &mut tasks);
    }
    tasks.into_par_iter().for_each(|task| {
        for mut part in task {
            dot_products(arch, x, part.weight, &mut part.out);
        }
    });
}

/// Number of multiplications below which waking another thread costs more than it saves.
const SMALL: usize = 1 << 15;
/// More parts than threads, so that other threads can take the work of a delayed one.
const PARTS_PER_THREAD: usize = 2;

/// Some rows of a weight matrix and, for every state, the slice of their outputs.
struct Task<'a> {
    weight: &'a [f32],
    out: Vec<&'a mut [f32]>,
}

/// Distributes the rows of `weight` to the tasks in equal runs.
fn deal<'a>(x: Rows, weight: &'a [f32], out: &'a mut [f32], tasks: &mut [Vec<Task<'a>>]) {
    let outputs = weight.len() / x.width;
    let run = outputs.div_ceil(tasks.len());
    let mut rests: Vec<&mut [f32]> = out.chunks_mut(outputs).collect();
    for (weight, task) in weight.chunks(run * x.width).zip(tasks) {
        let run = weight.len() / x.width;
        let mut outs = Vec::with_capacity(rests.len());
        for rest in &mut rests {
            let (now, later) = std::mem::take(rest).split_at_mut(run);
            outs.push(now);
            *rest = later;
        }
        task.push(Task { weight, out: outs });
    }
}

/// `out[r][o] = x[r] · weight[o]` on the calling thread.
pub(crate) fn dot_products(arch: Arch, x: Rows, weight: &[f32], out: &mut [&mut [f32]]) {
    arch.dispatch(DotProducts { x, weight, out });
}

struct DotProducts<'a, 'o> {
    x: Rows<'a>,
    weight: &'a [f32],
    out: &'a mut [&'o mut [f32]],
}

/// Number of weight rows read side by side.
const STREAMS: usize = 3;
/// Distance in bytes at which weights are prefetched when there are several states.
const AHEAD: usize = 448;
/// Bytes of a cache line.
const LINE: usize = 64;

impl WithSimd for DotProducts<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, weight, out } = self;
        let outputs = weight.len() / x.width;
        let row = |o: usize| &weight[o * x.width..][..x.width];
        let run = outputs / STREAMS;
        for o in 0..run {
            let rows = std::array::from_fn(|stream| row(stream * run + o));
            outputs_of::<S, STREAMS>(simd, x, rows, out, |stream| stream * run + o);
        }
        for o in STREAMS * run..outputs {
            outputs_of::<S, 1>(simd, x, [row(o)], out, |_| o);
        }
    }
}

/// Prefetches the cache line `AHEAD` bytes after this value.
#[inline(always)]
fn ask_ahead<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code)] // a prefetch reads nothing, wherever it points
    // SAFETY: SSE is part of x86-64, and a prefetch of any address is harmless.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>((&raw const *value).wrapping_byte_add(AHEAD).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// Computes `O` outputs of every state, four states at a time.
#[inline(always)]
fn outputs_of<S: Simd, const O: usize>(
    simd: S,
    x: Rows,
    weight: [&[f32]; O],
    out: &mut [&mut [f32]],
    place: impl Fn(usize) -> usize,
) {
    let count = x.count();
    let mut first = 0;
    while first < count {
        match count - first {
            1 => tile::<S, O, 1>(simd, x, first, weight, out, &place),
            2 => tile::<S, O, 2>(simd, x, first, weight, out, &place),
            3 => tile::<S, O, 3>(simd, x, first, weight, out, &place),
            _ => tile::<S, O, 4>(simd, x, first, weight, out, &place),
        }
        first += 4;
    }
}

/// Computes `O` outputs of `R` states, starting at `first`.
#[inline(always)]
fn tile<S: Simd, const O: usize, const R: usize>(
    simd: S,
    x: Rows,
    first: usize,
    weight: [&[f32]; O],
    out: &mut [&mut [f32]],
    place: &impl Fn(usize) -> usize,
) {
    let states: [&[f32]; R] = std::array::from_fn(|r| x.row(first + r));
    let sums = dots::<S, O, R>(simd, weight, states);
    for (r, sums) in sums.into_iter().enumerate() {
        for (o, sum) in sums.into_iter().enumerate() {
            out[first + r][place(o)] = sum;
        }
    }
}

/// The dot products of `R` states with `O` weight rows, each summed in the same fixed order.
#[inline(always)]
fn dots<S: Simd, const O: usize, const R: usize>(
    simd: S,
    weight: [&[f32]; O],
    states: [&[f32]; R],
) -> [[f32; O]; R] {
    let weight = weight.map(|values| S::as_simd_f32s(values));
    let states = states.map(|values| S::as_simd_f32s(values));
    let vectors = weight[0].0.len();
    let weight_vectors = weight.map(|(vectors_of, _)| &vectors_of[..vectors]);
    let state_vectors = states.map(|(vectors_of, _)| &vectors_of[..vectors]);
    let mut sums = [[simd.splat_f32s(0.0); O]; R];
    let per_line = (LINE / size_of::<S::f32s>()).max(1);
    for k in 0..vectors {
        if R > 1 && k % per_line == 0 {
            weight_vectors.iter().for_each(|row| ask_ahead(&row[k]));
        }
        let w: [S::f32s; O] = std::array::from_fn(|o| weight_vectors[o][k]);
        for r in 0..R {
            let x = state_vectors[r][k];
            for o in 0..O {
                sums[r][o] = simd.mul_add_e_f32s(x, w[o], sums[r][o]);
            }
        }
    }
    // The rest of a width that is not a multiple of the vector length, padded with zeros.
    if !weight[0].1.is_empty() {
        for r in 0..R {
            let x = simd.partial_load_f32s(states[r].1);
            for o in 0..O {
                let w = simd.partial_load_f32s(weight[o].1);
                sums[r][o] = simd.mul_add_e_f32s(x, w, sums[r][o]);
            }
        }
    }
    std::array::from_fn(|r| std::array::from_fn(|o| simd.reduce_sum_f32s(sums[r][o])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers(seed: u32, count: usize) -> Vec<f32> {
        let next = |i: u32| ((i.wrapping_mul(2_654_435_761) ^ seed) % 2003) as f32 / 1000.0 - 1.0;
        (0..count as u32).map(next).collect()
    }

    fn all(x: Rows, weight: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; x.count() * weight.len() / x.width];
        let mut products = [Product {
            weight,
            out: &mut out,
        }];
        linear(Arch::new(), x, &mut products);
        out
    }

    proptest! {
        #[test]
        fn is_the_product_and_each_row_alone_is_bit_equal(
            seed: u32,
            width in 1usize..70,
            outputs in 1usize..300,
            count in 1usize..11,
        ) {
            let (x, weight) = (numbers(seed, count * width), numbers(!seed, outputs * width));
            let rows = Rows { values: &x, width };
            let found = all(rows, &weight);
            for r in 0..count {
                let row = rows.row(r);
                let alone = all(Rows { values: row, width }, &weight);
                prop_assert_eq!(&alone, &found[r * outputs..][..outputs]);
                for (o, found) in alone.iter().enumerate() {
                    let w = &weight[o * width..][..width];
                    let exact: f64 = row.iter().zip(w).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    prop_assert!((exact - f64::from(*found)).abs() < 1e-4);
                }
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let (x, weight) = (numbers(1, 3 * 96), numbers(2, 500 * 96));
        let rows = Rows {
            values: &x,
            width: 96,
        };
        let of_threads = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.unwrap().install(|| all(rows, &weight))
        };
        assert_eq!(of_threads(1), of_threads(3));
    }
}
