//! Every fast version against the reference in plain operations, values and gradients.

#![allow(clippy::unwrap_used)] // a test's way to fail

use burn::tensor::{Device, Distribution, Tensor, TensorData};

use super::autograd::Input;
use crate::device::device;
use crate::ops::adamw::step::{AdamWStep, Moving};
use crate::ops::attention::{CausalMask, attend};
use crate::ops::linear::project;
use crate::ops::rms_norm::rms_norm;
use crate::ops::rope::Rotation;
use crate::ops::swiglu::swiglu;

/// Where only plain operations run: kernels of the CPU step aside for gradient checkpointing.
fn plain() -> Device {
    device("cpu").unwrap().autodiff().gradient_checkpointing()
}

fn torch() -> Device {
    device("torch-cpu").unwrap().autodiff()
}

fn random<const D: usize>(shape: [usize; D]) -> TensorData {
    let device = device("cpu").unwrap();
    Tensor::<D>::random(shape, Distribution::Normal(0.0, 1.0), &device).into_data()
}

fn close(ours: &TensorData, theirs: &TensorData, what: &str) {
    assert_eq!(ours.shape(), theirs.shape(), "{what}");
    for (ours, theirs) in ours.iter::<f32>().zip(theirs.iter::<f32>()) {
        let bound = 2e-6 * (1.0 + theirs.abs());
        assert!((ours - theirs).abs() < bound, "{what}: {ours} {theirs}");
    }
}

/// Output and gradients of `compute` over inputs of one rank, with random weights of the output.
fn compare<const D: usize, const N: usize>(
    inputs: [TensorData; N],
    learns: [bool; N],
    compute: impl Fn(&Device, [Tensor<D>; N]) -> Tensor<D>,
) {
    let mut probe = None;
    let [ours, theirs] = [torch(), plain()].map(|device| {
        let mut tensors = inputs
            .clone()
            .map(|data| Tensor::<D>::from_data(data, &device));
        for (tensor, learns) in tensors.iter_mut().zip(learns) {
            *tensor = tensor.clone().set_require_grad(learns);
        }
        let out = compute(&device, tensors.clone());
        let probe = probe.get_or_insert_with(|| random(out.dims())).clone();
        let mut found = (out.clone() * Tensor::from_data(probe, &device))
            .sum()
            .backward();
        let gradients = tensors.map(|tensor| tensor.grad_remove(&mut found).map(Tensor::into_data));
        (out.into_data(), gradients)
    });
    close(&ours.0, &theirs.0, "output");
    for (index, (ours, theirs)) in ours.1.iter().zip(&theirs.1).enumerate() {
        assert_eq!(ours.is_some(), theirs.is_some(), "gradient {index}");
        assert_eq!(ours.is_some(), learns[index], "gradient {index}");
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            close(ours, theirs, "gradient");
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
    compare(
        [random([7, 8]), random([1, 8])],
        [true, true],
        |_, [x, weight]| rms_norm(x, weight.reshape([8]), 1e-5),
    );
    compare(
        [random([7, 8]), random([7, 8])],
        [true, true],
        |_, [gate, up]| swiglu(gate, up),
    );
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

/// Burn reuses the memory of tensors that it holds alone: not while LibTorch's graph needs it.
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
    let devices = [device("torch-cpu").unwrap(), device("cpu").unwrap()];
    let mut both = devices.each_ref().map(|device| {
        let value = tensor(device, [0.5, -1.0, 2.0, 0.0]);
        Moving {
            first: value.zeros_like(),
            second: value.zeros_like(),
            value,
        }
    });
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
        let mut at = 0;
        both = both.map(|moving| {
            let gradient = tensor(&devices[at], [0.1, 0.0, -3.0, time as f32]);
            let kept = gradient.clone();
            at += 1;
            let moved = step.apply(gradient, moving);
            close(
                &kept.into_data(),
                &TensorData::from([0.1, 0.0, -3.0, time as f32]),
                "gradient",
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
            close(
                &ours.clone().into_data(),
                &theirs.clone().into_data(),
                "moments",
            );
        }
    }
}

#[test]
fn tensors_of_other_backends_are_not_taken() {
    let there = |device: &Device| Input::new(&Tensor::<2>::zeros([2, 3], device)).is_some();
    assert!(there(&torch()) && there(&device("torch-cpu").unwrap()));
    assert!(!there(&plain()));
    assert!(!there(
        &device("torch-cpu")
            .unwrap()
            .autodiff()
            .gradient_checkpointing()
    ));
}
