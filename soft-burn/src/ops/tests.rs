//! Every fast version against the reference in plain operations, values and gradients.

#![allow(clippy::unwrap_used)] // a test's way to fail

use burn::tensor::{DType, Device, Distribution, FloatDType, Int, Tensor, TensorData, activation};

use soft_core::model::Score;

use crate::device::{device, list_devices};
use crate::error::Error;
use crate::ops::adamw::step::{AdamWStep, Moving};
use crate::ops::attention::{CausalMask, Heads, attend};
use crate::ops::head::HeadTensors;
use crate::ops::linear::project;
use crate::ops::packed_attention::{Pass, Qkv};
use crate::ops::rms_norm::{add_and_normalize, rms_norm};
use crate::ops::rope::Rotation;
use crate::ops::swiglu::swiglu;
use crate::ops::tensor_store::{Span, TensorStore};

/// Where only plain operations run: kernels of the CPU step aside for gradient checkpointing.
fn plain() -> Device {
    device("cpu").unwrap().autodiff().gradient_checkpointing()
}

/// The devices that have fast versions, with the error allowed relative to 1 + |value|.
fn fast() -> Vec<(String, f32)> {
    let names = list_devices().into_iter();
    let names: Vec<_> = names
        .filter(|name| !matches!(name.as_str(), "cpu" | "ndarray"))
        .collect();
    if names.is_empty() {
        println!("NOT RUN: no device with fast versions found on this machine");
    }
    let bound = |name: String| {
        let bound = if name == "torch-cpu" { 1e-5 } else { 2e-5 };
        (name, bound)
    };
    names.into_iter().map(bound).collect()
}

fn random<const D: usize>(shape: [usize; D]) -> TensorData {
    let device = device("cpu").unwrap();
    Tensor::<D>::random(shape, Distribution::Normal(0.0, 1.0), &device).into_data()
}

fn close(ours: &TensorData, theirs: &TensorData, bound: f32, what: &str) {
    assert_eq!(ours.shape(), theirs.shape(), "{what}");
    for (ours, theirs) in ours.iter::<f32>().zip(theirs.iter::<f32>()) {
        let bound = bound * (1.0 + theirs.abs());
        assert!((ours - theirs).abs() < bound, "{what}: {ours} {theirs}");
    }
}

/// Output and gradients of `compute` over inputs of one rank, with random weights of the output, on
/// every device with fast versions and in plain operations on the CPU.
fn compare<const D: usize, const N: usize>(
    inputs: [TensorData; N],
    learns: [bool; N],
    compute: impl Fn(&Device, [Tensor<D>; N]) -> Tensor<D>,
) {
    let probe = {
        let on_cpu = inputs
            .clone()
            .map(|data| Tensor::<D>::from_data(data, &plain()));
        random(compute(&plain(), on_cpu).dims())
    };
    let run = |device: &Device| {
        let mut tensors = inputs
            .clone()
            .map(|data| Tensor::<D>::from_data(data, device));
        for (tensor, learns) in tensors.iter_mut().zip(learns) {
            *tensor = tensor.clone().set_require_grad(learns);
        }
        let out = compute(device, tensors.clone());
        let probe = Tensor::from_data(probe.clone(), device);
        let mut found = (out.clone() * probe).sum().backward();
        let gradients = tensors.map(|tensor| tensor.grad_remove(&mut found).map(Tensor::into_data));
        (out.into_data(), gradients)
    };
    let theirs = run(&plain());
    for (name, bound) in fast() {
        let ours = run(&device(&name).unwrap().autodiff());
        close(&ours.0, &theirs.0, bound, &format!("{name}: output"));
        for (index, (ours, theirs)) in ours.1.iter().zip(&theirs.1).enumerate() {
            let what = format!("{name}: gradient {index}");
            assert_eq!(ours.is_some(), theirs.is_some(), "{what}");
            assert_eq!(ours.is_some(), learns[index], "{what}");
            if let (Some(ours), Some(theirs)) = (ours, theirs) {
                close(ours, theirs, bound, &what);
            }
        }
    }
}

#[test]
fn linear_maps_agree() {
    for learns in [[true, true], [true, false], [false, true]] {
        compare(
            [random([7, 5]), random([6, 5])],
            learns,
            |_, [x, weight]| project(x, weight),
        );
    }
}

#[test]
fn norms_and_feed_forwards_agree() {
    for [rows, width] in [[7, 8], [130, 200]] {
        compare(
            [random([rows, width]), random([1, width])],
            [true, true],
            |_, [x, weight]| rms_norm(x, weight.reshape([width]), 1e-5),
        );
        compare(
            [
                random([rows, width]),
                random([rows, width]),
                random([1, width]),
            ],
            [true; 3],
            |_, [x, added, weight]| {
                let weight = weight.reshape([width]);
                let (sum, normed) = add_and_normalize(x, added, weight, 1e-5);
                sum.mul_scalar(0.3) + normed
            },
        );
    }
    compare(
        [random([7, 8]), random([7, 8])],
        [true, true],
        |_, [gate, up]| swiglu(gate, up),
    );
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
        let frequencies = [1.0, 0.5, 0.2, 0.1, 0.05];
        let span = Span::new(vec![0, 0], 7);
        let pass = Pass::new(&frequencies, &[5, 7], &span, device);
        let v = k.clone();
        let mixed = pass.attend(Qkv { q, k, v }, heads, None);
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
        for (dtype, bound) in [(FloatDType::F16, 0.02), (FloatDType::BF16, 0.1)] {
            if device.supports_dtype(dtype) {
                for (ours, theirs) in run(&device, dtype).iter().zip(&wanted) {
                    close(ours, theirs, bound, &format!("{name}, {dtype:?}"));
                }
            }
        }
    }
}

/// More elements than cubes along one axis have units.
#[test]
fn long_arrays_are_covered() {
    for (name, bound) in fast() {
        let device = device(&name).unwrap();
        let length = (1 << 15) * 128 + 4321;
        let gate = Tensor::<1, Int>::arange(0..length as i64, &device).float();
        let gate = gate.mul_scalar(1e-6).reshape([1, length]);
        let fed = swiglu(gate.clone(), gate.clone());
        let wanted = gate.clone() * activation::silu(gate);
        let worst: f32 = (fed - wanted).abs().max().into_scalar();
        assert!(worst < 10.0 * bound, "{name}: {worst}");
    }
}

#[test]
fn rotations_agree() {
    for starts in [vec![0], vec![3, 5]] {
        compare([random([2, 3, 4, 6])], [true], |device, [x]| {
            Rotation::new(&[1.0, 0.5, 0.1], &starts, 4, device).apply(x)
        });
    }
}

/// As many key heads as query heads and fewer; all positions of a row, or the last few of rows that
/// start at different positions.
#[test]
fn attention_agrees() {
    for key_heads in [4, 2, 1] {
        for (starts, keys) in [(vec![0], 5), (vec![2, 4], 9), (vec![4], 9)] {
            let kv = [2, key_heads, keys, 6];
            compare(
                [random([2, 4, 5, 6]), random(kv), random(kv)],
                [true; 3],
                |device, [q, k, v]| {
                    let mask = CausalMask::new(&starts, 5, keys, device);
                    attend(q, (k, v), mask.as_ref())
                },
            );
        }
    }
    compare(
        [
            random([2, 4, 1, 6]),
            random([2, 2, 7, 6]),
            random([2, 2, 7, 6]),
        ],
        [true; 3],
        |_, [q, k, v]| attend(q, (k, v), None),
    );
}

/// Rows of one tile and of several, alone and of unequal length, with heads narrower and wider than
/// a tile.
#[test]
fn attention_of_packed_rows_agrees() {
    let shapes = [
        (vec![5], 2, 2, 4),
        (vec![3, 1, 7], 4, 2, 6),
        (vec![70, 41], 6, 2, 40),
        (vec![33, 33], 2, 1, 128),
    ];
    for (counts, query, key_value, dim) in shapes {
        let heads = Heads {
            query,
            key_value,
            dim,
        };
        let states: usize = counts.iter().sum();
        let [narrow, wide] = [key_value, query].map(|heads| random([states, heads * dim]));
        let frequencies: Vec<f32> = (0..dim / 2).map(|i| 1.0 / (1.0 + i as f32)).collect();
        let longest = counts.iter().copied().max().unwrap();
        compare(
            [wide, narrow.clone(), narrow],
            [true; 3],
            |device, [q, k, v]| {
                let span = Span::new(vec![0; counts.len()], longest);
                let pass = Pass::new(&frequencies, &counts, &span, device);
                pass.attend(Qkv { q, k, v }, heads, None)
            },
        );
    }
}

/// Three passes into one store, in which rows continue at different positions; the states of all.
#[test]
fn attention_to_stored_keys_agrees() {
    // Heads narrower than a cube has units, as wide, and wider; more keys than units.
    for (dim, most) in [(6, 40), (128, 150), (200, 20)] {
        attention_over_a_store(dim, most);
    }
}

fn attention_over_a_store(dim: usize, most: usize) {
    let heads = Heads {
        query: 4,
        key_value: 2,
        dim,
    };
    let frequencies: Vec<f32> = (0..dim / 2).map(|i| 1.0 / (1.0 + i as f32)).collect();
    let passes = [[most, 3], [1, 1], [2, 5]];
    let inputs = passes.map(|counts: [usize; 2]| {
        let states = counts.iter().sum();
        let [narrow, wide] = [2, 4].map(|heads| [states, heads * dim]);
        [random(wide), random(narrow), random(narrow)]
    });
    let run = |device: &Device| -> Vec<TensorData> {
        let mut store = TensorStore::new((2, most + 10), heads, device.clone());
        let mut starts = vec![0, 0];
        let mut outs = Vec::new();
        for (counts, inputs) in passes.iter().zip(&inputs) {
            let longest = counts.iter().copied().max().unwrap();
            let span = Span::new(starts.clone(), longest);
            let pass = Pass::new(&frequencies, counts, &span, device);
            let [q, k, v] = inputs.clone().map(|data| Tensor::from_data(data, device));
            // A copy of a store keeps what it holds.
            let before = store.clone();
            let again = pass.attend(
                Qkv {
                    q: q.clone(),
                    k: k.clone(),
                    v: v.clone(),
                },
                heads,
                Some((&mut before.clone(), &span)),
            );
            outs.push(
                pass.attend(Qkv { q, k, v }, heads, Some((&mut store, &span)))
                    .into_data(),
            );
            outs.push(again.into_data());
            starts = starts.iter().zip(counts).map(|(a, b)| a + b).collect();
        }
        outs
    };
    let theirs = run(&device("cpu").unwrap());
    for (name, bound) in fast() {
        for (ours, theirs) in run(&device(&name).unwrap()).iter().zip(&theirs) {
            close(ours, theirs, bound, &name);
        }
    }
}

/// For few states and for many; every logit is there twice, so that the first must be found.
#[test]
fn scores_agree() {
    let (d_model, tokens) = (40, 300);
    let half = random([tokens / 2, d_model]);
    let norm = random([1, d_model]);
    for n in [1, 3, 8, 20] {
        let states = random([n, d_model]);
        let run = |device: &Device| {
            let half = Tensor::<2>::from_data(half.clone(), device);
            let head = HeadTensors {
                norm: Tensor::<2>::from_data(norm.clone(), device).reshape([d_model]),
                norm_eps: 1e-5,
                weight: Tensor::cat(vec![half.clone(), half], 0),
            };
            let states = || Tensor::<2>::from_data(states.clone(), device);
            let scores = head.scores(states()).unwrap();
            let nothing = head.scores(states().mul_scalar(f32::NAN));
            assert!(matches!(nothing, Err(Error::ScoresNotFinite)));
            (head.best(states()).unwrap(), scores)
        };
        let (best, scores) = run(&device("cpu").unwrap());
        assert!(best.iter().all(|&token| token < tokens as u32 / 2));
        for (name, bound) in fast() {
            let (found, ours) = run(&device(&name).unwrap());
            assert_eq!(found, best, "{name}");
            for (ours, theirs) in ours.iter().zip(&scores) {
                assert_eq!(ours.token, theirs.token, "{name}");
                let numbers = |score: &Score| [score.probability, score.second, score.entropy];
                let [ours, theirs] = [ours, theirs].map(|score| TensorData::from(numbers(score)));
                close(&ours, &theirs, 5.0 * bound, &name);
            }
        }
    }
}

/// Burn reuses the memory of tensors that it holds alone: not while a backward pass needs it.
#[test]
fn what_the_graph_holds_is_not_overwritten() {
    compare(
        [random([5, 6]), random([5, 6])],
        [true, true],
        |_, [gate, up]| {
            let gate = gate.add_scalar(1.0);
            let fed = swiglu(gate.clone(), up);
            let gate = gate.mul_scalar(3.0).exp();
            fed.mul_scalar(2.0) + gate
        },
    );
}

#[test]
fn steps_of_adamw_agree() {
    let tensor = |device: &Device, values: [f32; 4]| Tensor::<1>::from_data(values, device);
    let start = |device: &Device| {
        let value = tensor(device, [0.5, -1.0, 2.0, 0.0]);
        Moving {
            first: value.zeros_like(),
            second: value.zeros_like(),
            value,
        }
    };
    for (name, bound) in fast() {
        let devices = [device(&name).unwrap(), device("cpu").unwrap()];
        let mut both = devices.each_ref().map(start);
        for time in 1..=4 {
            let step = AdamWStep {
                scale: 1.0 / time as f64,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                rate: if time == 1 { 0.0 } else { 1e-2 },
                decay: 0.1,
                time,
            };
            let values = [0.1, 0.0, -3.0, time as f32];
            let mut at = devices.iter();
            both = both.map(|moving| {
                let gradient = tensor(at.next().unwrap(), values);
                let kept = gradient.clone();
                let (moved, _) = step.apply(gradient, moving, DType::F32);
                let wanted = TensorData::from(values);
                close(
                    &kept.into_data(),
                    &wanted,
                    bound,
                    &format!("{name}: gradient"),
                );
                moved
            });
            let [ours, theirs] = &both;
            let pairs = [
                (&ours.value, &theirs.value),
                (&ours.first, &theirs.first),
                (&ours.second, &theirs.second),
            ];
            for (ours, theirs) in pairs {
                let (ours, theirs) = (ours.clone().into_data(), theirs.clone().into_data());
                close(&ours, &theirs, bound, &format!("{name}: moments"));
            }
        }
    }
}
