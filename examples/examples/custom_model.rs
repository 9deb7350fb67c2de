//! A nested model that is not a LLaMA: a residual network that classifies the parity of a number
//! from its bits. One head reads all exits, which have equal weights in the sorted loss. Run it:
//! `cargo run --release --example custom_model`.

use std::{convert::Infallible as Never, ops::Range};

use soft_burn::burn::{self, module::*, nn, optim::*, tensor::*};
use soft_core::{Exit, Exits, NestedModel, Past, TrainModel, sorted_loss};
use soft_examples::outln;

type Rows = Tensor<2>;
type Earlier<'a> = Option<Past<'a, ()>>;

#[derive(Module, Debug)]
struct Network {
    blocks: Vec<nn::Linear>,
    head: nn::Linear,
}

impl NestedModel for Network {
    type Tokens = Rows; // bits as -1 and 1, eight per row
    type Hidden = Rows;
    type Logits = Rows;
    type KvStore = (); // no attention, no keys and values
    type Error = Never;

    fn depth(&self) -> usize {
        self.blocks.len()
    }

    fn embed(&self, bits: &Rows) -> Result<Rows, Never> {
        Ok(bits.clone().repeat_dim(1, 8))
    }

    fn blocks(&self, x: Rows, range: Range<usize>, _: Earlier) -> Result<Rows, Never> {
        let block = |x: Rows, block: &nn::Linear| x.clone() + block.forward(x).tanh();
        Ok(self.blocks[range].iter().fold(x, block))
    }

    fn logits(&self, x: &Rows, _: Exit) -> Result<Rows, Never> {
        Ok(self.head.forward(x.clone()))
    }
}

impl TrainModel for Network {
    type Targets = Tensor<2, Int>; // a class per row
    type Loss = Tensor<1>;

    fn loss(&self, x: &Rows, exit: Exit, targets: &Self::Targets) -> Result<Tensor<1>, Never> {
        let logs = activation::log_softmax(self.logits(x, exit)?, 1);
        Ok(logs.gather(1, targets.clone()).sum().neg())
    }

    fn weighted_sum(&self, terms: &[(f64, Tensor<1>)]) -> Result<Tensor<1>, Never> {
        let terms = terms.iter().map(|(weight, loss)| loss.clone() * *weight);
        Ok(Tensor::cat(terms.collect(), 0).sum())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = soft_burn::device("cpu")?.autodiff();
    let linear = |width| nn::LinearConfig::new(64, width).init(&device);
    let (blocks, head) = ((0..6).map(|_| linear(64)).collect(), linear(2));
    let mut network = Network { blocks, head };
    let bits = (0..128).flat_map(|n| (0..8).map(move |at| (n >> at & 1) as f32 * 2.0 - 1.0));
    let bits = Rows::from_data(TensorData::new(bits.collect(), [128, 8]), &device);
    let parity = (0..128i64).map(|n| i64::from(n.count_ones() % 2));
    let parity = Tensor::from_data(TensorData::new(parity.collect(), [128, 1]), &device);
    let (exits, mut optimizer): (Exits, _) = ("1,2,4,6".parse()?, AdamConfig::new().init());
    for _ in 0..60 {
        let loss = sorted_loss(&network, (&bits, &parity), &exits, &[0.25; 4], 128.0)?.total;
        let gradients = GradientsParams::from_grads(loss.backward(), &network);
        network = optimizer.step(3e-3, network, gradients);
    }
    for exit in exits.iter() {
        let best = network.sub_model(&bits, exit)?.argmax(1);
        let right = best.equal(parity.clone()).int().sum();
        outln!("exit {exit}: {} of 128 right", right.into_scalar::<i64>());
    }
    Ok(())
}
