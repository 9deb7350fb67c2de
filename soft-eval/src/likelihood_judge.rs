//! A model as a judge, by likelihoods. Nothing is generated.
//!
//! [`VerdictLikelihood`] asks which response is better and compares the likelihoods of the three
//! answers. It is for models trained to follow instructions or to judge. [`ResponseLikelihood`]
//! compares the likelihoods of the responses themselves, which suits any language model.
//! [`judge_quality`](crate::judge_quality) measures how well either agrees with people. The caller
//! supplies the tokenizer.

use std::collections::HashMap;

use soft_core::model::Head;
use soft_core::model::KvCache;
use soft_core::{DecodeModel, Exit, Past};

use crate::{Comparison, EvalError, Judge, Judgement, Verdict, judge_prompt};

/// Encodes text.
pub trait Encode {
    /// Tokens of `prompt` at the beginning of a text, and of `continuation` after it.
    ///
    /// # Errors
    /// A message for the user.
    fn encode(&self, prompt: &str, continuation: &str) -> Result<(Vec<u32>, Vec<u32>), String>;
}

impl<F: Fn(&str, &str) -> Result<(Vec<u32>, Vec<u32>), String>> Encode for F {
    fn encode(&self, prompt: &str, continuation: &str) -> Result<(Vec<u32>, Vec<u32>), String> {
        self(prompt, continuation)
    }
}

/// Log-likelihoods in nats of several continuations of one prompt under the full model. The prompt
/// is processed once.
///
/// # Errors
/// Errors of the model.
///
/// # Panics
/// If the prompt has no tokens.
pub fn log_likelihoods<M: DecodeModel>(
    model: &M,
    prompt: &[u32],
    continuations: &[Vec<u32>],
) -> Result<Vec<f64>, M::Error> {
    let longest = continuations.iter().map(Vec::len).max().unwrap_or(0);
    let mut cache = model.empty_cache(1, prompt.len() + longest)?;
    let mut reader = Reader {
        model,
        cache: &mut cache,
    };
    let after_prompt = reader.read(prompt, prompt.len() - 1)?;
    let mut found = Vec::new();
    for continuation in continuations {
        let mut rows = after_prompt.clone();
        // The logits of the last token are not needed.
        if let [fed @ .., _] = continuation.as_slice()
            && !fed.is_empty()
        {
            rows.extend(reader.read(fed, 0)?);
            reader.cache.truncate(0, prompt.len());
        }
        let terms = continuation.iter().zip(&rows);
        found.push(terms.map(|(token, row)| log_probability(row, *token)).sum());
    }
    Ok(found)
}

struct Reader<'a, M: DecodeModel> {
    model: &'a M,
    cache: &'a mut KvCache<M::KvStore>,
}

impl<M: DecodeModel> Reader<'_, M> {
    /// Appends tokens to the cache and returns the logits of those from index `from` on.
    fn read(&mut self, tokens: &[u32], from: usize) -> Result<Vec<Vec<f32>>, M::Error> {
        let model = self.model;
        let hidden = model.embed(&model.tokens(&[tokens.to_vec()])?)?;
        let past = Past {
            cache: self.cache,
            query_lens: &[tokens.len()],
        };
        let hidden = model.blocks(hidden, 0..model.depth(), Some(past))?;
        let wanted: Vec<usize> = (from..tokens.len()).collect();
        let states = model.select(&hidden, &wanted)?;
        let Ok(full) = Exit::new(model.depth()) else {
            return Ok(Vec::new());
        };
        model.logit_rows(&states, Head::Full(full))
    }
}

fn log_probability(logits: &[f32], token: u32) -> f64 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - highest).exp()).sum();
    f64::from(logits[token as usize] - highest) - sum.ln()
}

/// A judge that asks the model which response is better and takes the most likely answer.
#[derive(Debug)]
pub struct VerdictLikelihood<'m, M, E> {
    /// The model that judges.
    pub model: &'m M,
    /// The tokenizer, with the chat template if the model has one.
    pub encode: E,
}

/// A judge that prefers the response with the higher likelihood per token.
#[derive(Debug)]
pub struct ResponseLikelihood<'m, M, E> {
    /// The model that judges.
    pub model: &'m M,
    /// The tokenizer.
    pub encode: E,
    /// Makes a prompt of an instruction and its input.
    pub prompt: fn(&str, &str) -> String,
    /// Responses tie if their log-likelihoods per token differ by at most this, in nats.
    pub margin: f64,
    /// Log-likelihoods per token by prompt and response, so that none is computed twice.
    pub known: &'m mut HashMap<(String, String), f64>,
}

impl<M: DecodeModel, E: Encode> Judge for VerdictLikelihood<'_, M, E> {
    fn compare(&mut self, comparison: &Comparison) -> Result<Judgement, EvalError> {
        let question = judge_prompt(comparison);
        let (mut prompt, mut answers) = (Vec::new(), Vec::new());
        for answer in [" 1", " 2", " tie"] {
            let (tokens, continuation) = encoded(&self.encode, &question, answer)?;
            prompt = tokens;
            answers.push(continuation);
        }
        if let Some(unclear) = too_long(self.model, &prompt, &answers) {
            return Ok(unclear);
        }
        let likelihoods = log_likelihoods(self.model, &prompt, &answers).map_err(no_verdict)?;
        let mut best = 0;
        for (index, likelihood) in likelihoods.iter().enumerate() {
            if *likelihood > likelihoods[best] {
                best = index;
            }
        }
        Ok(Judgement {
            verdict: Verdict::CLEAR[best],
            reply: None,
        })
    }
}

impl<M: DecodeModel, E: Encode> Judge for ResponseLikelihood<'_, M, E> {
    fn compare(&mut self, comparison: &Comparison) -> Result<Judgement, EvalError> {
        let prompt = (self.prompt)(comparison.instruction, comparison.input);
        let mut found = [0.0; 2];
        for (found, response) in found.iter_mut().zip([comparison.first, comparison.second]) {
            match self.per_token(&prompt, response)? {
                Ok(nats) => *found = nats,
                Err(unclear) => return Ok(unclear),
            }
        }
        let [first, second] = found;
        let verdict = if first == second || (first - second).abs() <= self.margin {
            Verdict::Tie
        } else if first > second {
            Verdict::First
        } else {
            Verdict::Second
        };
        Ok(Judgement {
            verdict,
            reply: None,
        })
    }
}

impl<M: DecodeModel, E: Encode> ResponseLikelihood<'_, M, E> {
    /// Log-likelihood per token, or the verdict if the text is too long. An empty response has -∞
    /// and loses to every other.
    fn per_token(
        &mut self,
        prompt: &str,
        response: &str,
    ) -> Result<Result<f64, Judgement>, EvalError> {
        if response.trim().is_empty() {
            return Ok(Ok(f64::NEG_INFINITY));
        }
        let key = (prompt.to_owned(), response.to_owned());
        if let Some(known) = self.known.get(&key) {
            return Ok(Ok(*known));
        }
        let (prompt, continuation) = encoded(&self.encode, prompt, response)?;
        let continuation = [continuation];
        if let Some(unclear) = too_long(self.model, &prompt, &continuation) {
            return Ok(Err(unclear));
        }
        let nats = log_likelihoods(self.model, &prompt, &continuation).map_err(no_verdict)?;
        let found = nats[0] / continuation[0].len() as f64;
        self.known.insert(key, found);
        Ok(Ok(found))
    }
}

fn encoded(
    encode: &impl Encode,
    prompt: &str,
    continuation: &str,
) -> Result<(Vec<u32>, Vec<u32>), EvalError> {
    let tokens = encode.encode(prompt, continuation);
    let (prompt, continuation) = tokens.map_err(|reason| EvalError::Judge { reason })?;
    if prompt.is_empty() || continuation.is_empty() {
        let reason = "a prompt or a response without tokens".to_owned();
        return Err(EvalError::Judge { reason });
    }
    Ok((prompt, continuation))
}

/// The unclear verdict on a comparison that exceeds the context of the model, if it does.
fn too_long<M: DecodeModel>(
    model: &M,
    prompt: &[u32],
    continuations: &[Vec<u32>],
) -> Option<Judgement> {
    let longest = continuations.iter().map(Vec::len).max().unwrap_or(0);
    let (found, context) = (prompt.len() + longest, model.context());
    (found > context).then(|| Judgement {
        verdict: Verdict::Unclear,
        reply: Some(format!(
            "a comparison of {found} tokens, and the model's context holds {context}"
        )),
    })
}

fn no_verdict(error: impl std::error::Error) -> EvalError {
    EvalError::Judge {
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use soft_core::NestedModel;
    use soft_core::toy::ToyModel;

    #[test]
    fn likelihoods_are_those_of_the_whole_text_read_at_once() {
        let model = ToyModel::new(3, 4, 8, 9).restless();
        let prompt = [1, 2, 3];
        let continuations = vec![vec![4], vec![5, 6, 7], vec![5, 1]];
        let found = log_likelihoods(&model, &prompt, &continuations).unwrap();
        for (continuation, found) in continuations.iter().zip(found) {
            let text = [&prompt[..], continuation].concat();
            let logits = model
                .sub_model(&vec![text.clone()], Exit::new(3).unwrap())
                .unwrap();
            let wanted: f64 = (prompt.len()..text.len())
                .map(|index| {
                    let row = &logits[0][index - 1];
                    let sum: f64 = row.iter().map(|x| x.exp()).sum();
                    row[text[index] as usize] - sum.ln()
                })
                .sum();
            assert!((found - wanted).abs() < 1e-4, "{found} {wanted}");
        }
    }

    /// One token per byte.
    fn letters(prompt: &str, continuation: &str) -> Result<(Vec<u32>, Vec<u32>), String> {
        let tokens = |text: &str| text.bytes().map(|byte| u32::from(byte % 8)).collect();
        Ok((tokens(&prompt[..prompt.len().min(9)]), tokens(continuation)))
    }

    #[test]
    fn the_likelier_response_wins_in_either_order() {
        let model = ToyModel::new(3, 4, 8, 9).restless();
        let mut known = HashMap::new();
        let mut judge = ResponseLikelihood {
            model: &model,
            encode: letters,
            prompt: |instruction, _| instruction.to_owned(),
            margin: 0.0,
            known: &mut known,
        };
        let comparison = Comparison {
            instruction: "abcd",
            input: "",
            first: "efg",
            second: "hhh",
        };
        let verdict = judge.compare(&comparison).unwrap().verdict;
        assert_ne!(verdict, Verdict::Tie);
        let reversed = judge.compare(&comparison.reversed()).unwrap().verdict;
        assert_eq!(reversed, verdict.reversed());
        judge.margin = 100.0;
        assert_eq!(judge.compare(&comparison).unwrap().verdict, Verdict::Tie);
        judge.margin = 0.0;
        let empty = Comparison {
            second: " ",
            ..comparison
        };
        assert_eq!(judge.compare(&empty).unwrap().verdict, Verdict::First);
        assert_eq!(known.len(), 2, "each response is read once");
    }

    #[test]
    fn texts_beyond_the_context_have_no_verdict() {
        let model = ToyModel::new(3, 4, 8, 9);
        let mut judge = VerdictLikelihood {
            model: &model,
            encode: |prompt: &str, continuation: &str| {
                Ok((vec![1; prompt.len()], vec![2; continuation.len()]))
            },
        };
        let comparison = Comparison {
            instruction: "a",
            input: "",
            first: "b",
            second: "c",
        };
        let judgement = judge.compare(&comparison).unwrap();
        assert_eq!(judgement.verdict, Verdict::Unclear);
        assert!(judgement.reply.unwrap().contains("context holds 64"));
    }
}
