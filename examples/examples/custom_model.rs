//! A nested model that is no LLaMA: a residual network that classifies numbers by the parity of
//! their bits, each depth read by one head, trained with the sorted loss.
//! Run it: `cargo run --release --example custom_model`.

use std::{convert::Infallible as Never, ops::Range};

use soft_burn::burn::{self, module::*, optim::*, tensor, tensor::*};
use soft_core::{AllExits, Batch, Example, Exit, Exits, MicroBatch, NestedModel, NoCache, Past};
use soft_core::{SortedLoss, TargetScore, TrainModel, sorted_loss};

type Matrix = Tensor<2>;
type Classes = Tensor<2, Int>;
type Past_<'a> = Option<Past<'a, NoCache>>;

#[derive(Module, Debug)]
struct Network {
    blocks: Vec<Param<Matrix>>,
    head: Param<Matrix>,
}

impl NestedModel for Network {
    type Tokens = Matrix; // seven bits of each row's first token as -1 and 1, and a 1
    type Hidden = Matrix;
    type Logits = Matrix;
    type Cache = NoCache;
    type Error = Never;

    fn depth(&self) -> usize {
        self.blocks.len()
    }

    fn embed(&self, bits: &Matrix) -> Result<Matrix, Never> {
        Ok(bits.clone().repeat_dim(1, 8))
    }

    fn blocks(&self, x: Matrix, range: Range<usize>, _: Past_) -> Result<Matrix, Never> {
        let block = |x: Matrix, weight: &Param<Matrix>| x.clone() + x.matmul(weight.val()).tanh();
        Ok(self.blocks[range].iter().fold(x, block))
    }

    fn logits(&self, x: &Matrix, _: Exit) -> Result<Matrix, Never> {
        let logits = x.clone().matmul(self.head.val());
        Ok(activation::log_softmax(logits, 1))
    }
}

impl TrainModel for Network {
    type Targets = Classes;
    type Loss = Tensor<1>;

    fn prepare(&self, batch: &Batch) -> Result<(Matrix, Classes), Never> {
        let (device, rows) = (self.head.val().device(), batch.rows());
        let numbers = batch.tokens().chunks(batch.seq()).map(|row| row[0]);
        let bits =
            numbers.flat_map(|n| (0..8).map(move |bit| ((n | 128) >> bit & 1) as f32 * 2.0 - 1.0));
        let bits = TensorData::new(bits.collect(), [rows, 8]);
        let classes = batch.targets().iter().map(|target| target.token as i64);
        let classes = TensorData::new(classes.collect(), [rows, 1]);
        Ok((
            Matrix::from_data(bits, &device),
            Classes::from_data(classes, &device),
        ))
    }

    fn loss(&self, x: &Matrix, exit: Exit, wanted: &Classes) -> Result<Tensor<1>, Never> {
        Ok(self.logits(x, exit)?.gather(1, wanted.clone()).sum().neg())
    }

    fn target_scores(
        &self,
        x: &Matrix,
        e: Exit,
        wanted: &Classes,
    ) -> Result<Vec<TargetScore>, Never> {
        let logits = self.logits(x, e)?;
        let right = logits
            .clone()
            .argmax(1)
            .equal(wanted.clone())
            .int()
            .into_data();
        let nats = logits.gather(1, wanted.clone()).neg().into_data();
        let pairs = nats.iter::<f64>().zip(right.iter::<i64>());
        let score = |(nats, right)| TargetScore {
            nats,
            correct: right == 1,
        };
        Ok(pairs.map(score).collect())
    }

    fn weighted_sum(&self, terms: &[(f64, Tensor<1>)]) -> Result<Tensor<1>, Never> {
        let terms = terms.iter().map(|(weight, loss)| loss.clone() * *weight);
        Ok(terms.reduce(|a, b| a + b).expect("terms are never empty"))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = soft_burn::device("cpu")?.autodiff();
    let normal = tensor::Distribution::Normal(0.0, 0.1);
    let random = |width| Param::from_tensor(Tensor::random([64, width], normal, &device));
    let blocks = (0..6).map(|_| random(64)).collect();
    let mut network = Network {
        blocks,
        head: random(2),
    };
    let rows = (0..128u32).map(|n| Example::text(vec![n, n.count_ones() % 2]));
    let rows: Vec<_> = rows.collect();
    let batch = Batch::from_examples(&rows.iter().collect::<Vec<_>>(), 0)?;
    let (exits, mut optimizer): (Exits, _) = ("1,2,4,6".parse()?, AdamConfig::new().init());
    for step in 1..=150 {
        let (bits, classes) = network.prepare(&batch)?;
        let weights = AllExits.weights(&exits, MicroBatch::of_step(step));
        let loss = sorted_loss(&network, (&bits, &classes), &exits, &weights, 128.0)?.total;
        let gradients = GradientsParams::from_grads(loss.backward(), &network);
        network = optimizer.step(3e-3, network, gradients);
    }
    for scores in soft_eval::exit_scores(&network, &exits, &[batch], || ())? {
        let (loss, accuracy) = (scores.loss, 100.0 * scores.accuracy);
        println!(
            "exit {}: loss {loss:.3}, {accuracy:.1} % right",
            scores.exit
        );
    }
    Ok(())
}
