//! Agreement of every exit of a model with the full depth of another model or of itself, by
//! position in the answer.
//!
//! The figures are those of Sorted LLaMA, section 5 (KL divergence of the next-token distributions,
//! cosine similarity of the last hidden states), and the share of equal greedy tokens. Both models
//! read the same text, so that differences come from the models and not from their earlier output.

use serde::{Deserialize, Serialize};
use soft_core::model::Head;
use soft_core::policy::cosine_similarity;
use soft_core::{DecodeModel, Exit, Exits};

/// A prompt and an answer to it, usually that of the full model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnsweredPrompt {
    /// Tokens of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// Tokens of the answer.
    pub answer: Vec<u32>,
    /// Whether it ended with a stop token. The end is then compared like a token.
    pub ended: bool,
}

impl AnsweredPrompt {
    /// Number of tokens to compare, including the stop token if the answer ended with one.
    pub fn decisions(&self) -> usize {
        self.answer.len() + usize::from(self.ended)
    }
}

/// Means over all answers that have this position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PositionAgreement {
    /// Number of these answers.
    pub answers: u64,
    /// Share of answers in which exit and full model predict the same token.
    pub top1: f64,
    /// KL(exit ‖ full model) of the next-token distributions, in nats.
    pub kl: f64,
    /// Cosine similarity of the hidden states before the final norm.
    pub cosine: f64,
}

/// Agreement of one exit with the full model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitAgreement {
    /// Depth of the sub-model.
    pub exit: Exit,
    /// One entry per position of the answer.
    pub positions: Vec<PositionAgreement>,
}

/// States and logits of a model at the positions of an answer, by exit.
struct Reading<H> {
    exits: Vec<(H, Rows)>,
}

/// Logits and best token of every position.
struct Rows {
    logits: Vec<Vec<f32>>,
    best: Vec<u32>,
}

/// Compares the exits of one model with the full depth of another, or of itself.
#[derive(Debug)]
pub struct Pairing<'a, M> {
    /// The model with the exits.
    pub model: &'a M,
    /// The model whose full depth is the reference; of the same vocabulary and width.
    pub reference: &'a M,
    /// The exits.
    pub exits: &'a Exits,
    /// Number of positions of an answer to compare.
    pub positions: usize,
}

impl<M: DecodeModel> Pairing<'_, M> {
    /// Runs both models over the answers. `progress` is called after each answer. Hidden states of
    /// different models are compared directly, without an alignment.
    ///
    /// # Errors
    /// Errors of the models; logits that are not finite.
    ///
    /// # Panics
    /// If a prompt has no tokens, or the models' vocabularies or widths differ.
    pub fn agreement(
        &self,
        answers: &[AnsweredPrompt],
        mut progress: impl FnMut(),
    ) -> Result<Vec<ExitAgreement>, M::Error> {
        let Self {
            model,
            reference,
            exits,
            positions,
        } = *self;
        let mut sums = vec![vec![PositionAgreement::default(); positions]; exits.len()];
        let full = Exits::new([reference.depth()]).ok();
        let same = std::ptr::eq(model, reference) && exits.last().depth() == model.depth();
        for answer in answers {
            let ours = read(model, exits, answer, positions)?;
            let theirs = match full.as_ref().filter(|_| !same) {
                Some(full) => Some(read(reference, full, answer, positions)?),
                None => None,
            };
            if let Some(target) = theirs.as_ref().unwrap_or(&ours).exits.last() {
                add(model, &ours, target, &mut sums)?;
            }
            progress();
        }
        let means = exits.iter().zip(sums).map(|(exit, sums)| ExitAgreement {
            exit,
            positions: sums.into_iter().map(PositionAgreement::mean).collect(),
        });
        Ok(means.collect())
    }
}

/// Adds the figures of one answer to the sums, by exit and position.
fn add<M: DecodeModel>(
    model: &M,
    ours: &Reading<M::Hidden>,
    (target, wanted): &(M::Hidden, Rows),
    sums: &mut [Vec<PositionAgreement>],
) -> Result<(), M::Error> {
    let target = model.read_states(target)?;
    for ((hidden, rows), sums) in ours.exits.iter().zip(sums) {
        let states = model.read_states(hidden)?;
        for (index, (sum, pair)) in sums.iter_mut().zip(states.iter().zip(&target)).enumerate() {
            let cosine = cosine_similarity(pair.0, pair.1);
            sum.answers += 1;
            sum.top1 += f64::from(u8::from(rows.best[index] == wanted.best[index]));
            sum.kl += kl(&rows.logits[index], &wanted.logits[index]);
            sum.cosine += f64::from(cosine);
        }
    }
    Ok(())
}

impl PositionAgreement {
    /// Divides the sums by the number of answers.
    fn mean(self) -> Self {
        let answers = self.answers.max(1) as f64;
        Self {
            answers: self.answers,
            top1: self.top1 / answers,
            kl: self.kl / answers,
            cosine: self.cosine / answers,
        }
    }
}

impl ExitAgreement {
    /// Mean over the tokens of all positions.
    pub fn overall(&self) -> PositionAgreement {
        let mut sum = PositionAgreement::default();
        for position in &self.positions {
            let answers = position.answers as f64;
            sum.answers += position.answers;
            sum.top1 += answers * position.top1;
            sum.kl += answers * position.kl;
            sum.cosine += answers * position.cosine;
        }
        sum.mean()
    }
}

/// Hidden states and logits that predict the first `positions` tokens of the answer.
fn read<M: DecodeModel>(
    model: &M,
    exits: &Exits,
    text: &AnsweredPrompt,
    positions: usize,
) -> Result<Reading<M::Hidden>, M::Error> {
    assert!(!text.prompt.is_empty(), "a prompt without tokens");
    let length = text.decisions().min(positions);
    let mut reading = Reading { exits: Vec::new() };
    if length == 0 {
        return Ok(reading);
    }
    let mut tokens = text.prompt.clone();
    tokens.extend(text.answer.iter().take(length - 1));
    let wanted: Vec<usize> = (text.prompt.len() - 1..tokens.len()).collect();
    let tokens = model.tokens(&[tokens])?;
    model.visit_exits(&tokens, exits, |exit, hidden| {
        let states = model.select(hidden, &wanted)?;
        let rows = Rows {
            // Fails for logits that are not finite, which `kl` would take for a divergence of 0.
            best: model.best_tokens(&states, Head::Full(exit))?,
            logits: model.logit_rows(&states, Head::Full(exit))?,
        };
        reading.exits.push((states, rows));
        Ok(())
    })?;
    Ok(reading)
}

/// KL(softmax(`ours`) ‖ softmax(`theirs`)) in nats.
fn kl(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len(), "one vocabulary");
    let log_sum = |row: &[f32]| {
        let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|x| f64::from(x - highest).exp()).sum();
        f64::from(highest) + sum.ln()
    };
    let (our_sum, their_sum) = (log_sum(ours), log_sum(theirs));
    let term = |(ours, theirs): (&f32, &f32)| {
        let log_p = f64::from(*ours) - our_sum;
        log_p.exp() * (log_p - (f64::from(*theirs) - their_sum))
    };
    ours.iter().zip(theirs).map(term).sum::<f64>().max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use soft_core::NestedModel;
    use soft_core::toy::ToyModel;

    #[test]
    fn divergence_by_hand() {
        // KL of (1/4, 3/4) from (1/2, 1/2): 0.25 ln 0.5 + 0.75 ln 1.5. Shifts of logits cancel.
        let hand = 0.25 * 0.5f64.ln() + 0.75 * 1.5f64.ln();
        let found = kl(&[5.0, 5.0 + 3f32.ln()], &[-1.0, -1.0]);
        assert!((found - hand).abs() < 1e-6, "{found} {hand}");
        assert_eq!(kl(&[0.3, 0.1], &[0.3, 0.1]), 0.0);
    }

    fn answers() -> Vec<AnsweredPrompt> {
        let one = |prompt: &[u32], answer: &[u32]| AnsweredPrompt {
            prompt: prompt.to_vec(),
            answer: answer.to_vec(),
            ended: false,
        };
        vec![one(&[1, 2], &[3, 4, 5]), one(&[3], &[]), one(&[6], &[7])]
    }

    fn pairing<'a>(
        model: &'a ToyModel,
        reference: &'a ToyModel,
        exits: &'a Exits,
        positions: usize,
    ) -> Pairing<'a, ToyModel> {
        Pairing {
            model,
            reference,
            exits,
            positions,
        }
    }

    #[test]
    fn a_model_agrees_with_itself_and_positions_count_the_answers_that_have_them() {
        let model = ToyModel::new(3, 4, 8, 9);
        let exits = Exits::new([1, 3]).unwrap();
        let found = pairing(&model, &model, &exits, 5)
            .agreement(&answers(), || ())
            .unwrap();
        let counts: Vec<_> = found[0].positions.iter().map(|p| p.answers).collect();
        assert_eq!(counts, [2, 1, 1, 0, 0]);
        let full = found[1].overall();
        assert_eq!((full.answers, full.top1, full.kl), (4, 1.0, 0.0));
        assert!((full.cosine - 1.0).abs() < 1e-6);
        assert!(found[0].overall().kl > 0.0);
    }

    #[test]
    fn the_end_of_an_answer_is_a_position_too() {
        let model = ToyModel::new(3, 4, 8, 9);
        let exits = Exits::new([1, 3]).unwrap();
        let mut answers = answers();
        answers.iter_mut().for_each(|answer| answer.ended = true);
        let found = pairing(&model, &model, &exits, 4)
            .agreement(&answers, || ())
            .unwrap();
        let counts: Vec<_> = found[0].positions.iter().map(|p| p.answers).collect();
        assert_eq!(counts, [3, 2, 1, 1]);
    }

    #[test]
    fn figures_are_those_of_sub_models_on_the_same_text() {
        let (model, other) = (ToyModel::new(3, 4, 8, 9), ToyModel::new(2, 4, 8, 10));
        let exits = Exits::new([2, 3]).unwrap();
        let found = pairing(&model, &other, &exits, 2)
            .agreement(&answers()[..1], || ())
            .unwrap();
        let text = vec![vec![1, 2, 3]];
        let ours = model.sub_model(&text, Exit::new(2).unwrap()).unwrap();
        let theirs = other.sub_model(&text, Exit::new(2).unwrap()).unwrap();
        for (index, position) in found[0].positions.iter().enumerate() {
            let row = |logits: &Vec<Vec<Vec<f64>>>| -> Vec<f32> {
                logits[0][index + 1].iter().map(|x| *x as f32).collect()
            };
            let (ours, theirs) = (row(&ours), row(&theirs));
            assert!((position.kl - kl(&ours, &theirs)).abs() < 1e-9);
            let best = soft_core::model::Score::of_logits(&ours).token;
            let same = best == soft_core::model::Score::of_logits(&theirs).token;
            assert_eq!(position.top1, f64::from(u8::from(same)));
        }
    }
}
