//! CPU kernel and tensor operations against autodiff of the formulas.

#![allow(clippy::unwrap_used)] // tests fail by panicking

use burn::tensor::{Device, Distribution, TensorData};

use super::terms::{Teacher, Term};
use super::*;
use crate::ops::transfers::read_all;
use crate::tests::test_device;

const VOCAB: usize = 37;
const WIDTH: usize = 5;
const N: usize = 11;
const TERMS: [Term; 3] = [
    Term {
        hard: 0.3,
        soft: 0.7,
    },
    Term {
        hard: 0.0,
        soft: 1.5,
    },
    Term {
        hard: 1.1,
        soft: 0.0,
    },
];

fn random(shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

struct Case {
    states: Tensor<2>,
    weight: Tensor<2>,
    teacher: Option<Teacher>,
}

impl Case {
    fn new(temperature: Option<f64>) -> Self {
        let device = test_device();
        let teacher = temperature.map(|temperature| Teacher {
            states: random([N, WIDTH], &device),
            weight: random([VOCAB, WIDTH], &device),
            temperature,
        });
        Self {
            states: random([N * TERMS.len(), WIDTH], &device),
            weight: random([VOCAB, WIDTH], &device),
            teacher,
        }
    }

    fn tokens(&self) -> Tensor<1, Int> {
        let tokens: Vec<i64> = (0..N).map(|i| (i * 7 % VOCAB) as i64).collect();
        Tensor::from_data(TensorData::new(tokens, [N]), &self.states.device())
    }

    fn terms(&self) -> Vec<Term> {
        let soft = |soft| if self.teacher.is_some() { soft } else { 0.0 };
        let terms = TERMS.iter();
        terms
            .map(|term| Term {
                soft: soft(term.soft),
                ..*term
            })
            .collect()
    }

    fn predictions(&self) -> Predictions {
        Predictions {
            states: self.states.clone(),
            tokens: self.tokens(),
            terms: self.terms(),
            teacher: self.teacher.clone(),
        }
    }

    /// The losses per exit and the gradients of states and head by autodiff of the formulas.
    fn expected(&self, learns: bool) -> HeadGradients {
        let x = self.states.clone().autodiff().require_grad();
        let w = self.weight.clone().autodiff().require_grad();
        let mut total: Option<Tensor<1>> = None;
        let (mut nats, mut divergence) = (Vec::new(), Vec::new());
        let mut found = HeadGradients {
            nats: Numbers::none(),
            divergence: Numbers::none(),
            states: self.states.clone(),
            weight: None,
        };
        for (exit, term) in self.terms().into_iter().enumerate() {
            let rows: Vec<i64> = (0..N).map(|i| (i * TERMS.len() + exit) as i64).collect();
            let rows = Tensor::from_data(TensorData::new(rows, [N]), &x.device());
            let loss = |x: Tensor<2>, w: Tensor<2>| {
                let logits = project(x.select(0, rows.clone()), w);
                let log_p = activation::log_softmax(logits.clone(), 1);
                let tokens = Tensor::from_inner(self.tokens()).reshape([N, 1]);
                let hard = log_p.gather(1, tokens).neg().sum();
                let soft = self
                    .teacher
                    .clone()
                    .filter(|_| term.soft != 0.0)
                    .map(|teacher| {
                        let t = teacher.temperature;
                        let p = project(teacher.states, teacher.weight).div_scalar(t);
                        let p = Tensor::from_inner(activation::softmax(p, 1));
                        let q = activation::log_softmax(logits.div_scalar(t), 1);
                        (p.clone() * (p.log() - q)).sum()
                    });
                let t = self
                    .teacher
                    .as_ref()
                    .map_or(1.0, |teacher| teacher.temperature);
                let mut sum = hard.clone().mul_scalar(term.hard);
                if let Some(soft) = &soft {
                    sum = sum + soft.clone().mul_scalar(f64::from(term.soft) * t * t);
                }
                (sum, hard, soft)
            };
            let (sum, hard, soft) = loss(x.clone(), w.clone());
            nats.push(hard.into_scalar::<f32>().into());
            let soft = soft.map_or(0.0, |soft| soft.into_scalar::<f32>().into());
            divergence.push(soft);
            total = Some(match total {
                Some(total) => total + sum,
                None => sum,
            });
        }
        let gradients = total.unwrap().backward();
        found.states = x.grad(&gradients).unwrap();
        found.weight = learns.then(|| w.grad(&gradients).unwrap());
        (found.nats, found.divergence) = (Numbers::Read(nats), Numbers::Read(divergence));
        found
    }
}

fn same(a: &Tensor<2>, b: &Tensor<2>) {
    let scale: f32 = a.clone().abs().max().into_scalar();
    let worst: f32 = (a.clone() - b.clone()).abs().max().into_scalar();
    assert!(worst <= 1e-5 * scale, "{worst} of {scale}");
}

fn same_gradients(found: &HeadGradients, expected: &HeadGradients) {
    let sums = [
        (&found.nats, &expected.nats),
        (&found.divergence, &expected.divergence),
    ];
    for (found, expected) in sums {
        let read = |numbers: &Numbers| read_all(vec![numbers.clone()]).unwrap().concat();
        let (mut found, expected) = (read(found), read(expected));
        // Without a teacher there is no divergence.
        found.resize(expected.len(), 0.0);
        for (found, expected) in found.into_iter().zip(expected) {
            assert!(
                (found - expected).abs() <= 1e-5 * expected.abs().max(1.0),
                "{found} for {expected}"
            );
        }
    }
    same(&expected.states, &found.states);
    match (&expected.weight, &found.weight) {
        (Some(expected), Some(found)) => same(expected, found),
        (expected, found) => assert_eq!(expected.is_some(), found.is_some()),
    }
}

#[test]
fn both_ways_are_what_autodiff_computes_whatever_the_chunk() {
    for temperature in [None, Some(1.0), Some(2.5)] {
        let case = Case::new(temperature);
        for learns in [false, true] {
            let expected = case.expected(learns);
            for positions in [1, 4, 1000] {
                let (given, weight) = (case.predictions(), case.weight.clone());
                let found = on_host(&given, &weight, learns, positions);
                assert_eq!(found.is_some(), weight.device() == Device::flex());
                if let Some(found) = found {
                    same_gradients(&found, &expected);
                }
                same_gradients(&in_chunks(given, weight, learns, positions), &expected);
            }
        }
    }
}
