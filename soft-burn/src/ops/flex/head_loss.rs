//! Cross-entropy of a linear head and its gradients over slices, with reused buffers.
//!
//! The formulas are those of `head_loss`. Softmax, loss and gradient of a row of logits are
//! computed in one pass, in place; the matrix products accumulate the head's gradient. The logits
//! are the largest array of training, of which another copy would take measurable time.

use pulp::Arch;
use rayon::prelude::*;

use super::exp::exp;
use super::gemm::{Matrix, Onto, gemm};
use crate::ops::head_loss::terms::Term;

/// States and their targets; see [`Predictions`](crate::ops::head_loss::terms::Predictions).
pub(crate) struct HeadRun<'a> {
    /// Normalized states, ordered by position and then by exit.
    pub states: &'a [f32],
    pub d_model: usize,
    /// The target token of each position.
    pub tokens: &'a [usize],
    /// Loss factors of each exit.
    pub terms: &'a [Term],
    /// The head, row-major.
    pub weight: &'a [f32],
    /// Whether the head's gradient is computed.
    pub learns: bool,
    /// Teacher for distillation, if any.
    pub teacher: Option<HostTeacher<'a>>,
    /// Number of positions whose logits are held at a time.
    pub positions: usize,
}

#[derive(Clone, Copy)]
pub(crate) struct HostTeacher<'a> {
    /// One normalized state per position.
    pub states: &'a [f32],
    pub weight: &'a [f32],
    pub temperature: f32,
}

pub(crate) struct HeadFound {
    pub nats: Vec<f64>,
    pub divergence: Vec<f64>,
    pub states: Vec<f32>,
    pub weight: Option<Vec<f32>>,
}

/// Cross-entropy and divergence of one row of logits, in nats.
type RowLoss = (f32, f32);

impl HeadRun<'_> {
    pub fn run(&self) -> HeadFound {
        let exits = self.terms.len();
        let vocab = self.weight.len() / self.d_model;
        let block = self.positions.min(self.tokens.len());
        let mut logits = vec![0.0; block * exits * vocab];
        let mut taught = vec![0.0; self.teacher.map_or(0, |_| block * vocab)];
        let mut found = HeadFound {
            nats: vec![0.0; exits],
            divergence: vec![0.0; exits],
            states: vec![0.0; self.states.len()],
            weight: self.learns.then(|| vec![0.0; self.weight.len()]),
        };
        let weight = Matrix::new(self.weight, self.d_model);
        let mut onto = Onto::Fresh;
        let width = exits * self.d_model;
        let blocks = self.states.chunks(block * width);
        let gradients = found.states.chunks_mut(block * width);
        for (index, (states, gradient)) in blocks.zip(gradients).enumerate() {
            let first = index * block;
            let count = states.len() / width;
            let logits = &mut logits[..count * exits * vocab];
            let x = Matrix::new(states, self.d_model);
            gemm(x, weight.transposed(), logits, Onto::Fresh);
            let taught = self.teach(first..first + count, &mut taught);
            let rows = self.differentiate(&self.tokens[first..first + count], logits, taught);
            for (row, (nats, divergence)) in rows.into_iter().enumerate() {
                found.nats[row % exits] += f64::from(nats);
                found.divergence[row % exits] += f64::from(divergence);
            }
            let g = Matrix::new(logits, vocab);
            gemm(g, weight, gradient, Onto::Fresh);
            if let Some(sum) = &mut found.weight {
                gemm(g.transposed(), x, sum, onto);
                onto = Onto::Sum;
            }
        }
        found
    }

    /// The teacher's probabilities at these positions.
    fn teach<'a>(&self, positions: std::ops::Range<usize>, room: &'a mut [f32]) -> &'a [f32] {
        let Some(teacher) = self.teacher else {
            return &[];
        };
        let vocab = self.weight.len() / self.d_model;
        let states = &teacher.states[positions.start * self.d_model..positions.end * self.d_model];
        let room = &mut room[..positions.len() * vocab];
        let weight = Matrix::new(teacher.weight, self.d_model);
        gemm(
            Matrix::new(states, self.d_model),
            weight.transposed(),
            room,
            Onto::Fresh,
        );
        let arch = Arch::new();
        room.par_chunks_mut(vocab).for_each(|row| {
            arch.dispatch(
                #[inline(always)]
                || {
                    let scale = 1.0 / teacher.temperature;
                    row.iter_mut().for_each(|z| *z *= scale);
                    let highest = max(row);
                    let scale = 1.0 / exponentials(row, highest);
                    row.iter_mut().for_each(|p| *p *= scale);
                },
            );
        });
        room
    }

    /// Replaces logits by their gradients and returns the losses of each row.
    fn differentiate(&self, tokens: &[usize], logits: &mut [f32], taught: &[f32]) -> Vec<RowLoss> {
        let exits = self.terms.len();
        let vocab = self.weight.len() / self.d_model;
        let arch = Arch::new();
        let rows = logits.par_chunks_mut(vocab).enumerate();
        let losses = rows.map(|(row, logits)| {
            let (position, term) = (row / exits, self.terms[row % exits]);
            let token = tokens[position];
            arch.dispatch(
                #[inline(always)]
                || match self.teacher.filter(|_| term.soft != 0.0) {
                    None => (hard(logits, token, term.hard), 0.0),
                    Some(teacher) => {
                        let taught = &taught[position * vocab..][..vocab];
                        mixed(logits, token, term, (taught, teacher.temperature))
                    }
                },
            )
        });
        losses.collect()
    }
}

/// Replaces logits by `scale · (softmax − one-hot(token))`; returns −log softmax\[token\].
#[inline(always)]
fn hard(logits: &mut [f32], token: usize, scale: f32) -> f32 {
    let highest = max(logits);
    let right = logits[token] - highest;
    let sum = exponentials(logits, highest);
    let factor = scale / sum;
    logits.iter_mut().for_each(|p| *p *= factor);
    logits[token] -= scale;
    sum.ln() - right
}

/// The same with a teacher: adds `soft · T · (softmax(z / T) − taught)`, the gradient of T² times
/// `soft · KL(taught ‖ softmax(z / T))`. Returns both losses, the divergence without T².
#[inline(always)]
fn mixed(logits: &mut [f32], token: usize, term: Term, (taught, t): (&[f32], f32)) -> RowLoss {
    let highest = max(logits);
    let right = logits[token] - highest;
    let (mut hard, mut soft) = (Sums::default(), Sums::default());
    for (index, z) in logits.iter().enumerate() {
        hard.add(index, exp(z - highest));
        soft.add(index, exp((z - highest) / t));
    }
    let (hard, soft) = (hard.total(), soft.total());
    let log_soft = soft.ln();
    let (of_hard, of_soft) = (term.hard / hard, term.soft * t / soft);
    let mut divergence = Sums::default();
    for (index, (z, &p)) in logits.iter_mut().zip(taught).enumerate() {
        let scaled = (*z - highest) / t;
        // p · ln p is 0 at p = 0.
        let own = if p > 0.0 { p.ln() } else { 0.0 };
        divergence.add(index, p * (own - scaled + log_soft));
        *z = of_hard * exp(*z - highest) + of_soft * exp(scaled) - term.soft * t * p;
    }
    logits[token] -= term.hard;
    (hard.ln() - right, divergence.total())
}

/// Number of partial sums, chosen so that compilers keep them in vectors.
const LANES: usize = 16;

#[derive(Default)]
struct Sums([f32; LANES]);

impl Sums {
    #[inline(always)]
    fn add(&mut self, index: usize, value: f32) {
        self.0[index % LANES] += value;
    }

    #[inline(always)]
    fn total(&self) -> f32 {
        self.0.iter().sum()
    }
}

#[inline(always)]
fn max(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut highest = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (highest, value) in highest.iter_mut().zip(chunk) {
            *highest = if *value > *highest { *value } else { *highest };
        }
    }
    highest
        .iter()
        .chain(rest)
        .fold(f32::NEG_INFINITY, |a, &b| a.max(b))
}

/// `values = e^(values − highest)`; returns their sum.
#[inline(always)]
fn exponentials(values: &mut [f32], highest: f32) -> f32 {
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    let mut sums = [0.0f32; LANES];
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *value = exp(*value - highest);
            *sum += *value;
        }
    }
    let mut total: f32 = sums.iter().sum();
    for value in rest {
        *value = exp(*value - highest);
        total += *value;
    }
    total
}
