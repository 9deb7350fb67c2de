//! Cross-entropy of a sub-model at supervised positions.
//!
//! The hidden states of supervised positions are gathered before norm and head: on TriviaQA five of
//! six positions have no target, and the head is the widest layer.

use burn::tensor::{Int, Tensor, activation};
use soft_core::model::TargetScore;
use soft_core::{Batch, BatchModel, Exit, Exits, TrainModel};

use crate::dtype::to_f32;
use crate::error::Error;
use crate::model::llama::Llama;
use crate::ops::head::unreadable;
use crate::train::targets::Targets;
use crate::train::training_pass::TrainingPass;

impl Llama {
    /// Logits at the supervised positions, `[n, vocab]`, from the states at `exit`.
    ///
    /// # Errors
    /// None at present.
    pub fn target_logits(
        &self,
        hidden: &Tensor<3>,
        exit: Exit,
        targets: &Targets,
    ) -> Result<Tensor<2>, Error> {
        Ok(self.head().logits(targets.states(hidden), exit))
    }
}

impl TrainModel for Llama {
    type Targets = Targets;
    type Loss = Tensor<1>;

    fn loss(&self, hidden: &Tensor<3>, exit: Exit, targets: &Targets) -> Result<Tensor<1>, Error> {
        let logits = self.target_logits(hidden, exit, targets)?;
        Ok(cross_entropies(logits, targets.tokens()).sum())
    }

    fn weighted_sum(&self, terms: &[(f64, Tensor<1>)]) -> Result<Tensor<1>, Error> {
        let mut scaled = terms
            .iter()
            .map(|(weight, loss)| loss.clone().mul_scalar(*weight));
        let first = scaled.next();
        let sum = first.map(|first| scaled.fold(first, Tensor::add));
        Ok(sum.unwrap_or_else(|| Tensor::zeros([1], &self.device())))
    }
}

impl BatchModel for Llama {
    fn prepare(&self, batch: &Batch) -> Result<(Tensor<2, Int>, Targets), Error> {
        batch.check_vocabulary(self.config.vocab)?;
        let tokens = self.token_tensor(&batch.padded(0), batch.seq())?;
        let firsts: Vec<_> = (0..batch.rows()).map(|row| row * batch.seq()).collect();
        Ok((tokens, Targets::new(self, batch, &firsts)))
    }

    fn target_scores(
        &self,
        hidden: &Tensor<3>,
        exit: Exit,
        targets: &Targets,
    ) -> Result<Vec<TargetScore>, Error> {
        scores_of(self.target_logits(hidden, exit, targets)?, targets)
    }

    /// Computes nothing for padding outside of attention.
    fn batch_scores(&self, batch: &Batch, exits: &Exits) -> Result<Vec<Vec<TargetScore>>, Error> {
        let (pass, states) = TrainingPass::new(self, batch, None)?;
        let mut scores = Vec::with_capacity(exits.len());
        exits.walk(
            states,
            |_| true,
            |states, range| Ok::<_, Error>(pass.blocks(states, range)),
            |stop, states| {
                let logits = self
                    .head()
                    .logits(pass.at_exit(states, stop.exit), stop.exit);
                scores.push(scores_of(logits, &pass.targets)?);
                Ok(())
            },
        )?;
        Ok(scores)
    }
}

/// Loss and correctness of the prediction of every target, from its logits `[n, vocab]`.
fn scores_of(logits: Tensor<2>, targets: &Targets) -> Result<Vec<TargetScore>, Error> {
    if targets.is_empty() {
        return Ok(Vec::new());
    }
    let best = logits.clone().argmax(1).reshape([targets.len()]);
    let right = best.equal(targets.tokens()).int();
    let nats = cross_entropies(logits, targets.tokens());
    let nats: Vec<f32> = nats.try_into_vec_as().map_err(unreadable)?;
    let right: Vec<i64> = right.try_into_vec_as().map_err(unreadable)?;
    let scores = nats.into_iter().zip(right);
    let score = |(nats, right): (f32, i64)| TargetScore {
        nats: nats.into(),
        correct: right != 0,
    };
    Ok(scores.map(score).collect())
}

/// −log softmax(logits)\[target\] in nats; `[n, vocab]` and `[n]` to `[n]`.
fn cross_entropies(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let n = targets.dims()[0];
    let log_probabilities = activation::log_softmax(to_f32(logits), 1);
    let chosen = log_probabilities.gather(1, targets.reshape([n, 1]));
    chosen.reshape([n]).neg()
}
