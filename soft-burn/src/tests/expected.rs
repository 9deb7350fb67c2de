//! The expected values of `tests/fixtures`, and how far results are from them.

#![allow(clippy::unwrap_used, clippy::panic)] // tests fail by panicking

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use safetensors::{Dtype, SafeTensors};
use soft_core::{Batch, Example, Exits};

use crate::model::parameters::host_values;
use crate::tests::fixture;

pub(super) struct Expected {
    pub floats: BTreeMap<String, Vec<f32>>,
    pub integers: BTreeMap<String, Vec<i64>>,
}

impl Expected {
    pub fn load(folder: &str) -> Self {
        let bytes = std::fs::read(fixture(folder).join("expected.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let (mut floats, mut integers) = (BTreeMap::new(), BTreeMap::new());
        for (name, view) in file.tensors() {
            match view.dtype() {
                Dtype::F32 => {
                    let chunks = view.data().chunks_exact(4);
                    floats.insert(
                        name,
                        chunks
                            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                            .collect(),
                    );
                }
                Dtype::I64 => {
                    let chunks = view.data().chunks_exact(8);
                    integers.insert(
                        name,
                        chunks
                            .map(|b| i64::from_le_bytes(b.try_into().unwrap()))
                            .collect(),
                    );
                }
                other => panic!("{name} holds {other:?}"),
            }
        }
        Self { floats, integers }
    }

    pub fn scalar(&self, name: &str) -> f64 {
        self.floats[name][0].into()
    }

    /// Tensors whose name starts with `prefix`, which is removed.
    pub fn group<'a>(&'a self, prefix: &str) -> BTreeMap<&'a str, &'a Vec<f32>> {
        let strip =
            |(name, values): (&'a String, &'a Vec<f32>)| Some((name.strip_prefix(prefix)?, values));
        self.floats.iter().filter_map(strip).collect()
    }

    pub fn exits(&self) -> Exits {
        Exits::new(self.integers["exits"].iter().map(|&depth| depth as usize)).unwrap()
    }

    /// The batch: two rows, the second padded by three.
    pub fn batch(&self) -> Batch {
        let (ids, targets) = (&self.integers["input_ids"], &self.integers["targets"]);
        let rows: Vec<Example> = [0..11, 11..19]
            .into_iter()
            .map(|range| {
                let tokens = ids[range.clone()].iter().map(|&id| id as u32).collect();
                // targets[t] is the target of position t: token t + 1.
                let marks =
                    std::iter::once(false).chain(targets[range].iter().map(|&target| target >= 0));
                let mut marks: Vec<bool> = marks.collect();
                marks.pop();
                Example::new(tokens, marks).unwrap()
            })
            .collect();
        let batch = Batch::from_examples(&rows.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(
            batch.supervised_tokens(),
            targets.iter().filter(|&&target| target >= 0).count()
        );
        batch
    }
}

pub(super) fn largest_difference(expected: &[f32], found: &[f32]) -> f32 {
    assert_eq!(expected.len(), found.len());
    let differences = expected.iter().zip(found).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |most, difference| {
        if difference.is_nan() {
            f32::INFINITY
        } else {
            most.max(difference)
        }
    })
}

/// Largest difference, relative to the largest expected value of the tensor.
pub(super) fn relative_difference(expected: &[f32], found: &[f32]) -> f32 {
    let scale = expected
        .iter()
        .fold(0.0f32, |most, value| most.max(value.abs()));
    largest_difference(expected, found) / scale.max(f32::MIN_POSITIVE)
}

pub(super) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    host_values(tensor, "test").unwrap()
}
