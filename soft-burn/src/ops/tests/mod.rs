//! Every fast version against the reference in plain operations, values and gradients.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test's way to fail and to speak

mod attention;

use burn::tensor::{DType, Device, Distribution, Int, Tensor, TensorData, activation};

use soft_core::model::Score;

use crate::device::{device, list_devices};
use crate::error::Error;
use crate::ops::adamw::step::{AdamWStep, Moving};
use crate::ops::head::HeadTensors;
use crate::ops::linear::project;
use crate::ops::rms_norm::{add_and_normalize, rms_norm};
use crate::ops::swiglu::swiglu;

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
    compare_on(fast(), inputs, learns, compute);
}

/// [`compare`] on these devices, each with the error allowed.
fn compare_on<const D: usize, const N: usize>(
    devices: Vec<(String, f32)>,
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
    for (name, bound) in devices {
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
