//! Attention on every device with kernels; and in 16 bits, all that a block computes.

use burn::tensor::{Device, FloatDType, Tensor, TensorData};

use super::{close, compare, compare_on, fast, plain, random};
use crate::device::device;
use crate::ops::attention::{CausalMask, Heads, attend};
use crate::ops::linear::project;
use crate::ops::packed_attention::{Pass, PassShape, Qkv};
use crate::ops::rms_norm::add_and_normalize;
use crate::ops::rope::{Rotary, Rotation};
use crate::ops::swiglu::swiglu;
use crate::ops::tensor_store::{Span, TensorStore};

fn rotary(dim: usize) -> Rotary {
    let frequencies = (0..dim / 2).map(|i| 1.0 / (1.0 + i as f32));
    frequencies.collect::<Vec<_>>().into()
}

fn pass(
    rotary: &Rotary,
    (counts, window): (&[usize], Option<usize>),
    span: &Span,
    device: &Device,
) -> Pass {
    let shape = PassShape {
        rotary,
        counts,
        span,
        window,
    };
    Pass::new(shape, device)
}

#[test]
fn rotations_agree() {
    for starts in [vec![0], vec![3, 5]] {
        compare([random([2, 3, 4, 6])], [true], |device, [x]| {
            let rotary = vec![1.0, 0.5, 0.1].into();
            Rotation::new(&rotary, &starts, 4, device).apply(x)
        });
    }
}

/// As many key heads as query heads and fewer; all positions of a row, or the last few of rows that
/// start at different positions. Not on CUDA, where Burn's products round f32 to TF32 and the kernels
/// for packed states take the place of this function.
#[test]
fn attention_agrees() {
    let mut devices = fast();
    devices.retain(|(name, _)| !name.starts_with("cuda"));
    let compare = |inputs: [TensorData; 3], mask: &dyn Fn(&Device) -> Option<CausalMask>| {
        compare_on(devices.clone(), inputs, [true; 3], |device, [q, k, v]| {
            attend(q, (k, v), mask(device).as_ref())
        })
    };
    for key_heads in [4, 2, 1] {
        for (starts, keys, window) in [
            (vec![0], 5, None),
            (vec![2, 4], 9, None),
            (vec![4], 9, None),
            (vec![0], 5, Some(2)),
            (vec![2, 4], 9, Some(4)),
        ] {
            let kv = [2, key_heads, keys, 6];
            let inputs = [random([2, 4, 5, 6]), random(kv), random(kv)];
            compare(inputs, &|device| {
                CausalMask::new(&starts, (5, keys), window, device)
            });
        }
    }
    let kv = [2, 2, 7, 6];
    compare([random([2, 4, 1, 6]), random(kv), random(kv)], &|_| None);
}

/// Rows of one tile and of several, alone and of unequal length, with heads narrower and wider than
/// a tile, and windows of one position, narrower and wider than a tile.
#[test]
fn attention_of_packed_rows_agrees() {
    let shapes = [
        (vec![5], 2, 2, 4, None),
        (vec![3, 1, 7], 4, 2, 6, Some(1)),
        (vec![70, 41], 6, 2, 40, None),
        (vec![70, 41], 2, 1, 8, Some(3)),
        (vec![70, 41], 2, 1, 8, Some(33)),
        (vec![70, 41], 2, 1, 8, Some(64)),
        (vec![33, 33], 2, 1, 128, None),
    ];
    for (counts, query, key_value, dim, window) in shapes {
        let heads = Heads {
            query,
            key_value,
            dim,
        };
        let states: usize = counts.iter().sum();
        let [narrow, wide] = [key_value, query].map(|heads| random([states, heads * dim]));
        let rotary = rotary(dim);
        let longest = counts.iter().copied().max().unwrap();
        compare(
            [wide, narrow.clone(), narrow],
            [true; 3],
            |device, [q, k, v]| {
                let span = Span::new(vec![0; counts.len()], longest);
                let pass = pass(&rotary, (&counts, window), &span, device);
                pass.attend(Qkv { q, k, v, window }, heads, None)
            },
        );
    }
}

/// Three passes into one store, in which rows continue at different positions; the states of all.
#[test]
fn attention_to_stored_keys_agrees() {
    // Heads narrower than a cube has units, as wide, and wider; more keys than units.
    for (dim, most, window) in [
        (6, 40, None),
        (6, 40, Some(2)),
        (128, 150, None),
        (128, 150, Some(131)),
        (200, 20, None),
    ] {
        attention_over_a_store(dim, most, window);
    }
}

fn attention_over_a_store(dim: usize, most: usize, window: Option<usize>) {
    let heads = Heads {
        query: 4,
        key_value: 2,
        dim,
    };
    let rotary = rotary(dim);
    let passes = [[most, 3], [1, 1], [2, 5]];
    let inputs = passes.map(|counts: [usize; 2]| {
        let states = counts.iter().sum();
        let [narrow, wide] = [2, 4].map(|heads| [states, heads * dim]);
        [random(wide), random(narrow), random(narrow)]
    });
    let run = |device: &Device| -> Vec<TensorData> {
        let mut store = TensorStore::new((2, most + 10), heads, device.clone());
        // Gets the keys and values of all passes but the last without attention.
        let mut appended = store.clone();
        let mut starts = vec![0, 0];
        let mut outs = Vec::new();
        for (counts, inputs) in passes.iter().zip(&inputs) {
            let longest = counts.iter().copied().max().unwrap();
            let span = Span::new(starts.clone(), longest);
            let pass = pass(&rotary, (counts, window), &span, device);
            let qkv = || {
                let [q, k, v] = inputs.clone().map(|data| Tensor::from_data(data, device));
                Qkv { q, k, v, window }
            };
            if starts == [most + 1, 4] {
                let out = pass.attend(qkv(), heads, Some((&mut appended, &span)));
                outs.push(out.into_data());
            } else {
                pass.append((qkv().k, qkv().v), heads, (&mut appended, &span));
            }
            // A copy of a store keeps what it holds.
            let before = store.clone();
            let again = pass.attend(qkv(), heads, Some((&mut before.clone(), &span)));
            let out = pass.attend(qkv(), heads, Some((&mut store, &span)));
            outs.extend([out, again].map(Tensor::into_data));
            starts = starts.iter().zip(counts).map(|(a, b)| a + b).collect();
        }
        outs
    };
    let theirs = run(&device("cpu").unwrap());
    assert_eq!(theirs.len(), 2 * passes.len() + 1);
    close(&theirs[4], &theirs[5], 1e-6, "appended");
    for (name, bound) in fast() {
        for (ours, theirs) in run(&device(&name).unwrap()).iter().zip(&theirs) {
            close(ours, theirs, bound, &name);
        }
    }
}

/// Values and gradients in 16 bits beside those in f32, of everything a block computes.
#[test]
fn sixteen_bits_are_f32_to_rounding() {
    let heads = Heads {
        query: 4,
        key_value: 2,
        dim: 10,
    };
    let inputs = [[12, 40], [12, 20], [12, 40], [40, 40]].map(random::<2>);
    let run = |device: &Device, dtype: FloatDType| {
        let tensors = inputs.clone().map(|data| {
            let tensor = Tensor::<2>::from_data(data, device).cast(dtype);
            tensor.require_grad()
        });
        let [q, k, gate, weight] = tensors.clone();
        let rotary = vec![1.0, 0.5, 0.2, 0.1, 0.05].into();
        let span = Span::new(vec![0, 0], 7);
        let (window, v) = (None, k.clone());
        let pass = pass(&rotary, (&[5, 7], window), &span, device);
        let mixed = pass.attend(Qkv { q, k, v, window }, heads, None);
        let norm = Tensor::<1>::ones([40], device).cast(dtype);
        let (sum, normed) = add_and_normalize(mixed, gate.clone(), norm, 1e-5);
        let out = swiglu(project(normed, weight), gate) + sum;
        let mut found = out.clone().cast(FloatDType::F32).sum().backward();
        let gradients = tensors.map(|tensor| tensor.grad_remove(&mut found).unwrap());
        let all = gradients.into_iter().chain([out.inner()]);
        all.map(|tensor| tensor.cast(FloatDType::F32).into_data())
            .collect::<Vec<_>>()
    };
    let wanted = run(&plain(), FloatDType::F32);
    for (name, _) in fast() {
        let device = device(&name).unwrap().autodiff();
        for (dtype, bound) in [(FloatDType::F16, 0.005), (FloatDType::BF16, 0.04)] {
            if !device.supports_dtype(dtype) {
                continue;
            }
            for (ours, theirs) in run(&device, dtype).iter().zip(&wanted) {
                let squares =
                    |values: &mut dyn Iterator<Item = f32>| values.map(|it| it * it).sum();
                let pairs = ours.iter::<f32>().zip(theirs.iter::<f32>());
                let apart: f32 = squares(&mut pairs.map(|(ours, theirs)| ours - theirs));
                let whole: f32 = squares(&mut theirs.iter::<f32>());
                let relative = (apart / whole).sqrt();
                assert!(relative < bound, "{name}, {dtype:?}: {relative}");
            }
        }
    }
}
